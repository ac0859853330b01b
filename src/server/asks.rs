//! What a running process is asked to do, by signals, by the file, and on the control socket.

use std::time::Duration;

use tokio::sync::mpsc;

/// How long whoever asked may take to read the answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// Something to do, and who wants to know how it goes.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) what: What,
    reply: Option<mpsc::UnboundedSender<Line>>,
}

/// What there is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// Read the file again.
    Reload,
    /// Open the access log again.
    Reopen,
    /// Hand over to the program on disk.
    Upgrade,
}

/// What is said to whoever asked: any number of steps, then the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// What happens.
    Progress(String),
    /// It is done.
    Done(String),
    /// It is not done, and nothing has changed.
    Failed(String),
}

impl Ask {
    pub(super) fn reload() -> Self {
        Self { what: What::Reload, reply: None }
    }

    pub(super) fn reopen() -> Self {
        Self { what: What::Reopen, reply: None }
    }

    pub(super) fn upgrade() -> Self {
        Self { what: What::Upgrade, reply: None }
    }

    /// From somebody who wants to know how it goes.
    pub(super) fn from(what: What) -> (Self, mpsc::UnboundedReceiver<Line>) {
        let (reply, lines) = mpsc::unbounded_channel();
        (Self { what, reply: Some(reply) }, lines)
    }

    /// Says what happens, to the log and to whoever asked.
    pub(super) fn progress(&self, text: String) {
        log::info!("{text}");
        self.tell(Line::Progress(text));
    }

    /// Says how it ended.
    pub(super) fn end(&self, outcome: Result<String, String>) {
        match outcome {
            Ok(text) => {
                log::info!("{text}");
                self.tell(Line::Done(text));
            }
            Err(text) => {
                log::error!("{text}");
                self.tell(Line::Failed(text));
            }
        }
    }

    /// Ready when whoever asked has got the answer, or does not want it: a process that ends takes it along.
    pub(super) async fn heard(&self) {
        if let Some(reply) = &self.reply
            && tokio::time::timeout(PATIENCE, reply.closed()).await.is_err()
        {
            log::debug!("whoever asked does not read the answer");
        }
    }

    fn tell(&self, line: Line) {
        if let Some(reply) = &self.reply
            && reply.send(line).is_err()
        {
            log::debug!("whoever asked does not wait for the answer");
        }
    }
}

//! What becomes of connections for which there is no room: an answer that says so, in the protocol that they speak.

use std::{sync::Arc, time::Duration};

use pingora::{protocols::Stream, time::timeout};
use tokio::io::AsyncReadExt as _;

use super::{
    End,
    accept::{Acceptor, no_request, secure, speaks_http2},
    connection::{Arrival, Connection, Door, Limits},
    respond,
    turns::Turns,
};
use crate::reject::Reject;

/// How long such a connection may take for anything.
pub(super) const MOMENT: Duration = Duration::from_millis(500);

/// As much of the first line of a request is read.
const LINE: usize = 2048;

impl Acceptor {
    /// Answers the first request, counts and logs it, and closes the connection.
    pub(super) async fn turn_away(&self, stream: Stream, arrival: Arrival, door: &Door, reject: Reject) {
        let Some(_counted) = self.gateway.room().turn_away() else {
            // To write a line for each of so many would be a burden of its own.
            return self.gateway.snapshot().unrouted.finished(0, 0, Some(&reject));
        };
        // On a connection that would be handed on as it is, nobody knows what to say.
        let is_known = self.gateway.snapshot().passthroughs(arrival.listener).is_none();
        let secured = if is_known { secure(stream, door, MOMENT).await } else { None };
        let Some((mut stream, tls)) = secured else {
            return self.note(&Connection::new(arrival, None), reject, None);
        };
        let connection = &Connection::new(Arrival { limits: Limits { header: MOMENT, ..door.limits }, ..arrival }, tls);
        match speaks_http2(&mut stream, &connection.limits, connection.tls.is_some()).await {
            None => self.note(connection, reject, None),
            Some(false) => {
                let mut turns = Turns::new(stream, connection, self.gateway.clone());
                // Some clients take an answer for none if it comes before they have asked.
                if let Ok(true) = timeout(MOMENT, read_line(&mut turns)).await {
                    self.refuse(turns, connection, (reject, Duration::ZERO)).await;
                } else {
                    self.note(connection, reject, None);
                }
            }
            Some(true) => self.refuse_http2(stream, connection, reject).await,
        }
    }

    async fn refuse_http2(&self, stream: Stream, connection: &Arc<Connection>, reject: Reject) {
        let mut ctx = self.gateway.context();
        ctx.adopt(connection);
        let mut sent = None;
        let exchange = async {
            let mut http2 = h2::server::handshake(stream).await?;
            while let Some(asked) = http2.accept().await {
                let (request, mut respond) = asked?;
                let request = request.into_parts().0.into();
                let Ok(answer) = respond::whole_answer(&reject, &request, &mut ctx) else {
                    break;
                };
                if sent.is_some() {
                    continue;
                }
                sent = Some(answer.head.status.as_u16());
                let head = http::Response::from_parts(answer.head.into(), ());
                let only = answer.body.is_empty();
                let mut stream = respond.send_response(head, only)?;
                if !only {
                    stream.send_data(answer.body, true)?;
                }
                http2.graceful_shutdown();
            }
            Ok::<_, h2::Error>(())
        };
        if let Ok(Err(error)) = timeout(MOMENT, exchange).await {
            log::debug!("a connection could not be turned away: {error}");
        }
        self.note(connection, reject, sent);
    }

    /// Logs and counts a connection that is turned away, and whether that was said to the client.
    pub(super) fn note(&self, connection: &Arc<Connection>, reject: Reject, status: Option<u16>) {
        let mut ctx = self.gateway.context();
        ctx.adopt(connection);
        ctx.reject = Some(reject);
        self.gateway.finish(&no_request(), &ctx, &End { status, ..End::default() });
    }
}

/// Reads the first line of a request, or a part of it if it is long; `false` if there is none.
async fn read_line(turns: &mut Turns) -> bool {
    while turns.next.len() < LINE && !turns.next.contains(&b'\n') {
        if !matches!(turns.inner.read_buf(&mut turns.next).await, Ok(1..)) {
            return false;
        }
    }
    true
}

//! A look at what is said in a WebSocket ([RFC 6455](https://www.rfc-editor.org/rfc/rfc6455)) as it passes.
//!
//! The headers of frames are read, their payload is neither looked at nor copied. Held to are, whoever sends:
//!
//! - Frames of a client are masked, those of a server are not (5.1).
//! - Reserved bits are used only if the handshake agreed on an extension; opcodes are known ones; a length has its
//!   shortest form (5.2).
//! - Frames of control are whole and have at most 125 bytes; fragments belong to a message that has begun, and no
//!   other begins before its end (5.4, 5.5).
//! - A frame has at most `max_frame`, a message `max_message` bytes, as they are sent: compressed, if they are. An empty
//!   fragment counts as one byte, so that no message is fragmented for ever.
//! - Something is said within `idle_timeout`, by either side; a ping will do.
//! - The deadline of the route or the upstream holds for WebSockets too.
//!
//! A frame that breaks a rule is not passed on. Both sides then get a close frame: who broke it 1002 or 1009, a client
//! whose server did 1014, and the other side 1001, as both do if the time is up. What is in the middle of a frame is told
//! at its end, if that comes within a second.
//!
//! | module | what it is |
//! |---|---|
//! | `frames` | where frames begin and end, and which are allowed |
//! | `guard` | both directions of a connection, and its end |

mod frames;
mod guard;

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use http::header;
use pingora::http::ResponseHeader;

pub(super) use self::guard::{Guard, Source};
use super::context::Context;
use crate::{config::web_socket::WebSocket, reject::Reject};

/// What a route asks of its WebSockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The largest frame, in bytes.
    pub frame: u64,
    /// The largest message, in bytes.
    pub message: u64,
    /// How long both sides may say nothing.
    pub idle: Duration,
}

impl Limits {
    /// The limits of a route.
    pub fn new(config: &WebSocket) -> Self {
        Self { frame: config.max_frame.0, message: config.max_message.0, idle: config.idle_timeout.0 }
    }
}

/// A WebSocket: how it is to be guarded, and what became of it. The hooks of its request and the connection share it.
#[derive(Debug)]
pub struct Talk {
    limits: Limits,
    /// Whether the handshake agreed on extensions, which may use the reserved bits.
    extensions: bool,
    /// How long it may last.
    left: Option<Duration>,
    outcome: OnceLock<Reject>,
}

impl Talk {
    /// A WebSocket that begins now.
    pub fn new(limits: Limits, extensions: bool, left: Option<Duration>) -> Arc<Self> {
        Arc::new(Self { limits, extensions, left, outcome: OnceLock::new() })
    }

    /// Why the gateway ended it, if it did.
    pub fn outcome(&self) -> Option<Reject> {
        self.outcome.get().cloned()
    }
}

/// Has the frames looked at that follow this response; `left` is how long they may come.
pub(super) fn begin(response: &ResponseHeader, ctx: &Context, left: Option<Duration>) {
    if let (Some(route), Some(connection)) = (&ctx.route, &ctx.connection) {
        let extensions = response.headers.contains_key(header::SEC_WEBSOCKET_EXTENSIONS);
        let talk = Talk::new(Limits::new(&route.web_socket), extensions, left);
        if connection.web_socket.set(talk).is_err() {
            log::debug!("a connection became a WebSocket twice");
        }
    }
}

/// Why the gateway ended the WebSocket of a request, if it did.
pub(super) fn outcome(ctx: &Context) -> Option<Reject> {
    ctx.connection.as_ref()?.web_socket.get()?.outcome()
}

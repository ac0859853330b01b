//! Checks by [gRPC's health checking protocol](https://github.com/grpc/grpc/blob/master/doc/health-checking.md): a call of
//! `grpc.health.v1.Health/Check` on a connection of its own.
//!
//! The two messages have one field each, so they are written and read by hand.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::{BufMut as _, Bytes, BytesMut};
use http::{Uri, Version, header};
use pingora::{
    BError, Error, ErrorType, Result,
    connectors::http::Connector,
    http::RequestHeader,
    protocols::http::{client::HttpSession, v2::client::Http2Session},
    upstreams::peer::HttpPeer,
};
use pingora_load_balancing::{Backend, health_check::HealthCheck};

use super::Check;
use crate::{
    config::health::{GrpcHealth, Health},
    upstream::{connection::connector_options, endpoint::Endpoint, members::Members},
};

const PATH: &str = "/grpc.health.v1.Health/Check";

/// `SERVING` of `ServingStatus`.
const SERVING: u64 = 1;

/// An answer of two bytes has no reason to be longer.
const MAX_ANSWER: usize = 4096;

/// A check that asks the standard service.
pub(super) struct Grpc {
    peer: HttpPeer,
    connector: Connector,
    authority: String,
    message: Bytes,
}

impl Grpc {
    pub(super) fn compile(
        grpc: &GrpcHealth,
        health: &Health,
        members: &Members,
        template: &Endpoint,
    ) -> Result<Check, String> {
        let plan = &members.plan;
        let mut peer = template.peer.clone();
        peer.options.total_connection_timeout = Some(health.timeout.0);
        Ok(Arc::new(Self {
            authority: if peer.sni.is_empty() { plan.upstream.to_string() } else { peer.sni.clone() },
            peer,
            connector: Connector::new(Some(connector_options(&plan.connection))),
            message: message(&grpc.service).ok_or("the name of the service is too long")?,
        }))
    }

    async fn ask(&self, session: &mut Http2Session) -> Result<()> {
        session.write_request_header(Box::new(self.header()?), false)?;
        session.write_request_body(self.message.clone(), true).await?;
        session.read_response_header().await?;
        let (status, early) = session
            .response_header()
            .map(|head| (head.status.as_u16(), head.headers.get("grpc-status").cloned()))
            .unwrap_or_default();
        if status != 200 {
            return wrong(format!("status {status}"));
        }
        if let Some(code) = early.filter(|code| code != "0") {
            return wrong(format!("gRPC status {}", code.to_str().unwrap_or("?")));
        }
        let mut answer = BytesMut::new();
        while let Some(piece) = session.read_response_body().await? {
            if answer.len() + piece.len() > MAX_ANSWER {
                return wrong("the answer is too long".into());
            }
            answer.extend_from_slice(&piece);
        }
        let late = session.read_trailers().await?;
        if let Some(code) = late.as_ref().and_then(|late| late.get("grpc-status")).filter(|code| *code != "0") {
            return wrong(format!("gRPC status {}", code.to_str().unwrap_or("?")));
        }
        match serving(&answer) {
            Some(SERVING) => Ok(()),
            Some(2) => wrong("NOT_SERVING".into()),
            Some(3) => wrong("SERVICE_UNKNOWN".into()),
            Some(other) => wrong(format!("serving status {other}")),
            None => wrong("the answer is none of grpc.health.v1".into()),
        }
    }

    fn header(&self) -> Result<RequestHeader> {
        let mut head = RequestHeader::build("POST", PATH.as_bytes(), Some(4))?;
        head.set_version(Version::HTTP_2);
        let uri = Uri::builder().scheme("https").authority(self.authority.as_str()).path_and_query(PATH).build();
        if let Ok(uri) = uri {
            head.set_uri(uri);
        }
        head.insert_header(header::CONTENT_TYPE, "application/grpc")?;
        head.insert_header(header::TE, "trailers")?;
        head.insert_header(header::USER_AGENT, "torana-health")?;
        Ok(head)
    }
}

#[async_trait]
impl HealthCheck for Grpc {
    async fn check(&self, target: &Backend) -> Result<(), BError> {
        let mut peer = self.peer.clone();
        peer._address = target.addr.clone();
        match Box::pin(self.connector.get_http_session(&peer)).await? {
            (HttpSession::H2(mut session), _) => self.ask(&mut session).await,
            (HttpSession::H1(_) | HttpSession::Custom(()), _) => wrong("it does not speak HTTP/2".into()),
        }
    }

    fn health_threshold(&self, _: bool) -> usize {
        1
    }
}

fn wrong(why: String) -> Result<()> {
    Error::e_explain(ErrorType::Custom("grpc.health.v1"), why)
}

/// A `HealthCheckRequest` in its frame: field 1 is the name of the service.
fn message(service: &str) -> Option<Bytes> {
    // Longer ones would need a length of two bytes.
    let length = u8::try_from(service.len()).ok().filter(|length| *length < 128)?;
    let mut message = BytesMut::new();
    message.put_u8(0);
    message.put_u32(if length == 0 { 0 } else { u32::from(length) + 2 });
    if length > 0 {
        message.put_slice(&[0x0a, length]);
        message.put_slice(service.as_bytes());
    }
    Some(message.freeze())
}

/// The status in a framed `HealthCheckResponse`: field 1, a varint that is left out where it is 0.
fn serving(answer: &[u8]) -> Option<u64> {
    let (frame, message) = answer.split_at_checked(5)?;
    let (length, _) = frame.get(1..)?.split_first_chunk::<4>()?;
    if frame.first() != Some(&0) || usize::try_from(u32::from_be_bytes(*length)) != Ok(message.len()) {
        return None;
    }
    match message {
        [] => Some(0),
        [0x08, status @ 0..128] => Some(u64::from(*status)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_those_of_the_protocol() {
        assert_eq!(&*message("").unwrap(), [0; 5]);
        assert_eq!(&*message("a.B").unwrap(), b"\0\0\0\0\x05\x0a\x03a.B");
        assert!(message(&"x".repeat(128)).is_none());
        assert_eq!(serving(b"\0\0\0\0\x02\x08\x01"), Some(SERVING));
        assert_eq!(serving(b"\0\0\0\0\x02\x08\x02"), Some(2));
        assert_eq!(serving(&[0; 5]), Some(0));
        for wrong in [&b""[..], b"\0\0\0\0\x02\x08", b"\x01\0\0\0\x02\x08\x01", b"\0\0\0\0\x02\x10\x01", b"<html>"] {
            assert_eq!(serving(wrong), None, "{wrong:?}");
        }
    }
}

//! `grpc_web`: lets browsers call services that speak gRPC
//! ([PROTOCOL-WEB](https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-WEB.md)).
//!
//! # Rules
//!
//! - A `POST` with `application/grpc-web` or `application/grpc-web-text`, with or without `+proto` or another format, reaches
//!   the upstream as gRPC: with `application/grpc`, with `te: trailers`, and decoded if it was text.
//! - The response comes back as what the client sent: piece by piece, in base64 for `-text`, and with the trailers as its
//!   last frame. So unary calls and streams from the server work, over HTTP/1.1 as well.
//! - A response without messages, which has its `grpc-status` among the headers, stays like that.
//! - Requests of any other type pass as they are: gRPC and gRPC-Web may share a route.
//! - The upstream has to speak gRPC: `protocol: http2`. Where this policy is for every route, it leaves those of other
//!   upstreams alone.
//!
//! # For operators
//!
//! - Pages of other origins need the [`cors`](super::cors) policy beside it, with `grpc-status`, `grpc-message` and
//!   `torana-reject` exposed: see `conf/examples/grpc_web.yaml`.
//! - Refusals of the gateway are readable for gRPC-Web with and without this policy: a response with a status of gRPC.
//! - Browsers cannot stream to the server: gRPC-Web has nothing for that.
//!
//! # Example
//!
//! ```yaml
//! policies:
//!   - cors: { origins: [https://app.example.com], expose: [grpc-status, grpc-message, torana-reject] }
//!   - grpc_web: {}
//! ```

mod bridge;

use http::{Method, header};
use pingora::http::{RequestHeader, ResponseHeader};
use schemars::JsonSchema;
use serde::Deserialize;

pub use self::bridge::{Bridge, trailer_frame};
use super::{Flow, Policy, Stage};
use crate::{grpc::Kind, proxy::context::Context, reject::Reject, runtime::Build};

/// Nothing can be set.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "GrpcWeb")]
pub struct Config {}

/// Translates between gRPC-Web and gRPC.
#[derive(Debug)]
pub struct GrpcWeb;

impl Policy for GrpcWeb {
    const STAGE: Stage = Stage::Transform;
    const REFUSES: bool = false;
    type Config = Config;

    fn compile(_: &Config, _: &mut Build<'_>) -> Result<Self, String> {
        Ok(Self)
    }

    async fn on_request(&self, request: &mut RequestHeader, ctx: &mut Context) -> Result<Flow, Reject> {
        if let Some(kind @ (Kind::Web | Kind::WebText)) = ctx.grpc
            && request.method == Method::POST
            && ctx.route.as_ref().is_some_and(|route| route.speaks_http2())
        {
            ctx.grpc_web = Some(Box::new(Bridge::new(kind)));
        }
        Ok(Flow::Continue)
    }

    fn on_response(&self, response: &mut ResponseHeader, ctx: &mut Context) {
        let Some(bridge) = &mut ctx.grpc_web else { return };
        let sent = response.headers.get(header::CONTENT_TYPE);
        // Or else it is the answer of something in between, or the gateway's own.
        let Some(sent) = sent.filter(|sent| Kind::of(sent) == Some(Kind::Grpc)) else { return };
        let Some(translated) = bridge.kind().translate(sent) else { return };
        if response.insert_header(header::CONTENT_TYPE, translated).is_err() {
            return;
        }
        bridge.begin();
        // The trailers come on top.
        response.remove_header(&header::CONTENT_LENGTH);
    }
}

//! The header of the upstream's answer, before anybody else sees it.

use std::time::Duration;

use pingora::{Result, http::ResponseHeader};
use pingora_proxy::Session;

use super::{
    Gateway, caching, context::Context, fail, grpc, hop, hygiene, in_flight::Kind, respond, retry, spelling, web_socket,
};
use crate::reject::Reject;

impl Gateway {
    /// Notes what an answer says, refuses what is none, and decides whether another endpoint is asked.
    pub(super) fn answered(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        if let Err(reject) = hop::frame_response(response) {
            return fail(ctx, reject);
        }
        if respond::is_interim(response) {
            hop::clean_response(response);
            return hygiene::interim(ctx).or_else(|reject| fail(ctx, reject));
        }
        self.remaining(ctx).or_else(|reject| fail(ctx, reject))?;
        if response.status == http::StatusCode::SWITCHING_PROTOCOLS {
            if !session.is_upgrade_req() {
                // Pingora would pass it on, and the client would wait for what comes behind it.
                return fail(ctx, Reject::UpstreamInvalid);
            }
            ctx.web_socket = Some(self.0.room.flights().begin(Kind::WebSocket));
            // The guard knows how long nothing may be said, and how much.
            session.set_read_timeout(None);
            ctx.max_body = None;
            web_socket::begin(response, ctx, self.remaining(ctx).unwrap_or(Some(Duration::ZERO)));
        } else {
            spelling::forget_in_response(response, ctx);
        }
        grpc::note_status(&response.headers, ctx);
        let now = self.now();
        retry::note_hedge(ctx, now);
        let took = now.saturating_sub(ctx.attempt.started);
        ctx.attempt.first_byte = Some(took);
        ctx.attempt.took = Some(now.saturating_sub(ctx.attempt.asked));
        retry::answered(session, response, ctx, (took, now))?;
        caching::instead(session, response, ctx)
    }
}

//! Which endpoint a request is sent to, and how it is connected to.

use pingora::{
    Error, ErrorType, Result,
    upstreams::peer::{HttpPeer, HttpUpstreamRequestPolicy},
};
use pingora_proxy::Session;

use super::{Gateway, context::Context, fail, hop, hygiene, spelling};
use crate::reject::Reject;

/// Chooses an endpoint, for the first or another try.
pub(super) async fn peer(gateway: &Gateway, session: &mut Session, ctx: &mut Context) -> Result<Box<HttpPeer>> {
    if ctx.attempt.tries == 0 {
        admit(gateway, session, ctx).await?;
        spelling::forget_in_request(session.req_header_mut(), ctx);
    }
    if let Some(pause) = ctx.attempt.pause.take() {
        let left = gateway.remaining(ctx).ok().flatten();
        tokio::time::sleep(left.map_or(pause, |left| left.min(pause))).await;
    }
    let remaining = match gateway.remaining(ctx) {
        Ok(remaining) => remaining,
        Err(reject) => return fail(ctx, reject),
    };
    let Some(upstream) = ctx.upstream() else { return fail(ctx, Reject::Internal) };
    let now = gateway.now();
    let Some(lease) = upstream.choose(session.req_header(), ctx, now) else {
        let why = upstream.why_none(now);
        return fail(ctx, why);
    };
    let turn = if upstream.shares_connections() { Box::pin(lease.turn(upstream, remaining)).await } else { None };
    let mut peer = lease.peer(upstream, remaining);
    let introduction = upstream.introduce(&mut peer, ctx);
    if let (Some(left), Some(connection)) = (remaining, &ctx.connection) {
        // A client that stops in the middle of its body must not outlast the deadline either.
        session.set_read_timeout(Some(connection.limits.body.min(left)));
    }
    if hop::is_end_to_end_only(&session.req_header().headers) {
        // Pingora would look for each of a dozen headers by itself.
        peer.options.http_upstream_request_policy = HttpUpstreamRequestPolicy::preserve();
    }
    let mut exchange = None;
    if ctx.upgrade && session.is_upgrade_req() {
        crate::upstream::switch::prepare(&mut peer, introduction);
    } else {
        hygiene::keep_apart(session, &mut peer, ctx);
        exchange = upstream.hedge(session.req_header(), &lease, &mut peer);
    }
    ctx.attempt.tries = ctx.attempt.tries.saturating_add(1);
    ctx.body_check.iter_mut().for_each(|check| check.restart());
    ctx.attempt.started = now;
    ctx.attempt.asked = now;
    ctx.attempt.took = None;
    ctx.attempt.first_byte = None;
    ctx.attempt.interim = 0;
    ctx.attempt.lease = Some(lease);
    ctx.attempt.exchange = exchange;
    ctx.attempt.unretried = None;
    ctx.attempt.turn = turn;
    Ok(peer)
}

/// Lets the request go to its upstream, perhaps after it has waited.
async fn admit(gateway: &Gateway, session: &mut Session, ctx: &mut Context) -> Result<()> {
    let (Some(upstream), Some(route)) = (ctx.upstream(), &ctx.route) else { return Ok(()) };
    upstream.begin();
    if !upstream.has_admission() {
        return Ok(());
    }
    let admitted = match gateway.remaining(ctx) {
        // Boxed, so that the future of every request stays small.
        Ok(remaining) => {
            let waiting = Box::pin(upstream.admit(route.priority, remaining, gateway.now()));
            // What is behind a request that has no body is the end of the connection, or the next request.
            if session.is_body_empty() && !ctx.upgrade {
                tokio::select! {
                    biased;
                    admitted = waiting => admitted,
                    gone = Box::pin(session.as_downstream_mut().read_body_or_idle(true)) => {
                        let error = gone.err().unwrap_or_else(|| Error::new(ErrorType::ConnectionClosed));
                        return Err(error.into_down());
                    }
                }
            } else {
                waiting.await
            }
        }
        Err(reject) => Err(reject),
    };
    match admitted {
        Ok(pass) => {
            ctx.attempt.pass = Some(pass);
            Ok(())
        }
        Err(reject) => fail(ctx, reject),
    }
}

//! Fresh tokens for a session: asked for by one request, for all.

use std::{sync::Arc, time::Duration};

use pingora::http::RequestHeader;

use super::{
    Inner, TOO_LARGE, Why,
    login::set,
    provider::{self, Complaint, Refused, moment},
    session::{Open, Session},
};
use crate::{
    identity,
    policy::verdicts::{Digest, Verdict},
    proxy::context::Context,
    reject::Reject,
};

/// How long a request waits for others that refresh the same session.
const PATIENCE: Duration = Duration::from_secs(8);

/// How long a refresh that came to nothing is not tried again, in seconds.
const AGAIN: u64 = 2;

/// How long a refresh token that the issuer does not accept is not shown again, in seconds.
const REFUSED: u64 = 60;

/// What a refresh is known by.
pub(super) fn name_of(session: &Session, refresh_token: &str) -> Digest {
    identity::digest(format!("{} {refresh_token}", session.id).as_bytes())
}

impl Inner {
    /// A session whose tokens have expired, with fresh ones; or why there are none.
    pub(super) async fn renewed(
        &self,
        open: &Open,
        request: &RequestHeader,
        ctx: &mut Context,
    ) -> Result<Result<Arc<Open>, Why>, Reject> {
        let Some(refresh_token) = &open.session.refresh_token else {
            return Ok(Err("the tokens of the session have expired, and the issuer gave no refresh token"));
        };
        // Some issuers give the same token to several logins.
        let digest = name_of(&open.session, refresh_token);
        let now = ctx.started.unix.as_secs();
        let place = self.shared.renewing.queue(digest);
        let turn = tokio::time::timeout(PATIENCE, place.wait()).await;
        let _turn =
            turn.map_err(|_elapsed| Reject::AuthUnavailable("the issuer did not refresh the session in time"))?;
        let found = match self.shared.renewed.find(&digest, 0, now) {
            Some(found) => found,
            None => self.refresh(open, refresh_token, digest, ctx).await,
        };
        let session = match found {
            Ok(session) => session,
            Err(Refused::Grant) => return Ok(Err("the issuer does not refresh the session any more")),
            Err(Refused::Failed(why)) => return Err(Reject::AuthUnavailable(why)),
        };
        if self.shared.ended.is_over(&open.marks, open.session.started) {
            // Meanwhile somebody logged out, who did not know of this token.
            if let Some(token) = &session.refresh_token {
                self.issuer.revoke(token).await;
            }
            return Ok(Err("the session was ended: somebody logged out"));
        }
        let fresh = self.read((*session).clone()).ok_or(Reject::Internal)?;
        set(ctx, self.sealed(&session, request).ok_or(Reject::AuthUnavailable(TOO_LARGE))?);
        if fresh.is_stale(self.forward, now) {
            return Ok(Err("the issuer refreshed the session, but not with what the upstream needs"));
        }
        Ok(Ok(Arc::new(fresh)))
    }

    /// Asks the issuer, and remembers what comes of it.
    async fn refresh(
        &self,
        open: &Open,
        refresh_token: &str,
        digest: Digest,
        ctx: &Context,
    ) -> Result<Arc<Session>, Refused> {
        let now = ctx.started.unix.as_secs();
        let found = match self.issuer.refresh(refresh_token).await {
            Ok(tokens) => {
                let fresh = tokens.refresh_token.clone();
                match self.next(open, tokens, ctx).await {
                    Ok(session) => Ok(Arc::new(session)),
                    Err(why) => {
                        self.issuer.complain(
                            "refreshes a session, but not so that it counts:",
                            why,
                            &Complaint::default(),
                        );
                        if let Some(token) = fresh {
                            self.issuer.revoke(&token).await;
                        }
                        Err(Refused::Grant)
                    }
                }
            }
            Err(refused) => Err(refused),
        };
        let (until, event) = match &found {
            Ok(session) => (session.stale.max(now.saturating_add(1)), &self.events.refreshed),
            Err(Refused::Grant) => (now.saturating_add(REFUSED), &self.events.expired),
            Err(Refused::Failed(_)) => (now.saturating_add(AGAIN), &self.events.failed),
        };
        event.inc();
        self.shared.renewed.insert(digest, Verdict { found: found.clone(), valid: (0, until), keys: 0 });
        found
    }

    /// The session with the tokens that it was refreshed with: of the same user at the same issuer
    /// ([`OpenID` Connect Core, 12.2](https://openid.net/specs/openid-connect-core-1_0.html#RefreshTokenResponse)).
    async fn next(&self, open: &Open, tokens: provider::Tokens, ctx: &Context) -> Result<Session, Why> {
        if let Some(token) = &tokens.id_token {
            let fresh = self.issuer.verify(token, moment(ctx)).await?.claims;
            let old = provider::claims(&open.session.id_token).unwrap_or_default().0;
            let nonce = fresh.get("nonce").is_none_or(|nonce| nonce.as_str() == Some(&open.session.nonce));
            if fresh.get("sub") != old.get("sub") || !nonce {
                return Err("its tokens are those of another user");
            }
        }
        Ok(self.with(open.session.clone(), tokens, ctx.started.unix.as_secs()))
    }
}

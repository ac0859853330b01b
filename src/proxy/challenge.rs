//! Pages that an authority fetches before it issues a certificate.

use bytes::Bytes;
use http::{Method, StatusCode, header};
use pingora::http::{RequestHeader, ResponseHeader};

use crate::{
    policy::{Flow, Reply},
    runtime::Snapshot,
};

/// The page, if an authority waits for it: whatever the host, and before any route. `None` for every other request, which
/// costs a look at a pointer where no certificates are issued, and at the first bytes of the path elsewhere.
pub(super) async fn answer(request: &RequestHeader, snapshot: &Snapshot) -> Option<Flow> {
    let acme = snapshot.acme.as_ref()?;
    let path = request.uri.path();
    if !path.starts_with("/.well-known/acme-challenge/") || !matches!(request.method, Method::GET | Method::HEAD) {
        return None;
    }
    let page = Box::pin(acme.challenges().page(path)).await?;
    log::info!("acme: the authority fetches {path}");
    reply(page).map(|reply| Flow::Reply(Box::new(reply)))
}

fn reply(body: Bytes) -> Option<Reply> {
    let mut head = ResponseHeader::build(StatusCode::OK, Some(4)).ok()?;
    head.insert_header(header::CONTENT_TYPE, "application/octet-stream").ok()?;
    head.insert_header(header::CACHE_CONTROL, "no-store").ok()?;
    Some(Reply { head, body })
}

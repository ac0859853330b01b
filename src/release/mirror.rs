//! Copies of requests for another upstream: a new version sees what comes, and nobody sees what it says.
//!
//! - The copy is what the upstream gets, with `X-Mirrored-From: <route>`. It is sent once the body is there whole; of a request with a body
//!   of more than `max_body` there is none.
//! - The request itself does not wait for anything: copies are sent beside it, at most `at_once` of them; what is more is left out and
//!   counted (`torana_mirrored_total{outcome="skipped"}`).
//! - A retry is not copied again; requests that ask for another protocol are not at all.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use bytes::{Bytes, BytesMut};
use http::{HeaderName, HeaderValue, header};
use pingora::http::RequestHeader;
use prometheus::IntCounter;
use rand::Rng;

use crate::{
    config::release::Mirror as Config,
    proxy::context::Context,
    runtime::{
        Build, State,
        ask::{Asker, Bounds, Failure},
    },
};

/// Says that a request is a copy, and of which route.
const MIRRORED: HeaderName = HeaderName::from_static("x-mirrored-from");

/// Answers are thrown away, and read to the end up to this size, so that their connection can be used again.
const MAX_ANSWER: usize = 64 << 10;

/// A compiled `mirror`.
#[derive(Debug)]
pub struct Mirror {
    asker: Arc<Asker>,
    share: f64,
    max_body: usize,
    most: u32,
    route: HeaderValue,
    copies: Arc<Copies>,
    /// Answered, failed, skipped.
    counters: [IntCounter; 3],
}

/// A copy that waits for its body.
#[derive(Debug)]
pub struct Copy {
    head: Box<RequestHeader>,
    body: BytesMut,
    slot: Slot,
}

impl Copy {
    /// The body is sent anew.
    pub fn restart(&mut self) {
        self.body.clear();
    }
}

/// How many copies of a route are under way, also over reloads.
#[derive(Debug, Default)]
struct Copies(AtomicU32);

impl State for Copies {}

/// A place among them.
#[derive(Debug)]
struct Slot(Arc<Copies>);

impl Slot {
    fn take(copies: &Arc<Copies>, most: u32) -> Option<Self> {
        let more = |now: u32| (now < most).then(|| now + 1);
        let taken = copies.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        taken.is_ok().then(|| Self(Arc::clone(copies)))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Mirror {
    /// The upstream was checked to be there.
    pub fn compile(config: &Config, route: &str, build: &mut Build<'_>) -> Result<Self, String> {
        let bounds = Bounds { time: config.timeout.0, size: MAX_ANSWER };
        Ok(Self {
            asker: Arc::new(build.asker(&config.upstream, bounds)?),
            share: config.share.share(),
            max_body: usize::try_from(config.max_body.0).unwrap_or(usize::MAX),
            most: config.at_once.get(),
            route: HeaderValue::from_str(route).unwrap_or_else(|_| HeaderValue::from_static("?")),
            copies: build.keep_as(format!("mirror/{route}"), Copies::default),
            counters: build.metrics.mirrored(route),
        })
    }

    /// Begins a copy of what the upstream gets, of so many requests as the file says. One without a body is sent at once.
    pub fn begin(&self, request: &RequestHeader, has_body: bool, ctx: &Context) -> Option<Copy> {
        if self.share < 1.0 && rand::rng().random::<f64>() >= self.share {
            return None;
        }
        let length = request.headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        // Who is left alone by others is not asked for nothing.
        let fits = length.is_none_or(|length: usize| length <= self.max_body) && !self.asker.is_left_alone();
        let Some(slot) = fits.then(|| Slot::take(&self.copies, self.most)).flatten() else {
            self.skip();
            return None;
        };
        let mut head = Box::new(request.clone());
        // The body comes in one piece.
        for name in [header::TRANSFER_ENCODING, header::CONTENT_LENGTH, header::EXPECT] {
            head.remove_header(&name);
        }
        if head.insert_header(MIRRORED, self.route.clone()).is_err() {
            return None;
        }
        let copy = Copy { head, body: BytesMut::new(), slot };
        if has_body {
            return Some(copy);
        }
        self.send(copy, ctx);
        None
    }

    /// Adds a piece of the body; with the last one the copy is sent. Returns it while more is to come.
    pub fn add(&self, mut copy: Copy, piece: Option<&Bytes>, end: bool, ctx: &Context) -> Option<Copy> {
        if let Some(piece) = piece {
            if copy.body.len() + piece.len() > self.max_body {
                self.skip();
                return None;
            }
            copy.body.extend_from_slice(piece);
        }
        if !end {
            return Some(copy);
        }
        self.send(copy, ctx);
        None
    }

    fn send(&self, copy: Copy, ctx: &Context) {
        let Some(asking) = self.asker.begin(&copy.head, ctx) else {
            let [_, failed, _] = &self.counters;
            return failed.inc();
        };
        let asker = Arc::clone(&self.asker);
        let [answered, failed, _] = self.counters.clone();
        let Copy { head, body, slot } = copy;
        // It belongs to nobody: it ends by itself, within `timeout`.
        tokio::spawn(async move {
            // A server may have done what a broken connection does not tell.
            let again = head.method.is_idempotent();
            let answer = Box::pin(asker.go_on(asking, *head, body.freeze(), again)).await;
            let came = matches!(answer, Ok(_) | Err(Failure::Large));
            if came {
                answered.inc();
            } else {
                failed.inc();
            }
            drop(slot);
        });
    }

    fn skip(&self) {
        let [_, _, skipped] = &self.counters;
        skipped.inc();
    }
}

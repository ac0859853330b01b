//! What the gateway knows about one request, from its first hook to its last.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    ops::Range,
    sync::Arc,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{HeaderName, HeaderValue};
use prometheus::IntCounter;
use smallvec::SmallVec;

use crate::{
    clock::Moment,
    grpc::Kind,
    identity::Identity,
    policy::{
        Mode,
        bandwidth::Pace,
        cache,
        concurrency::Held,
        grpc_web::Bridge,
        hmac::BodyCheck,
        limit_key::Key,
        waf::{Hit, Inspection},
    },
    proxy_protocol::Said,
    reject::{Reject, Shown},
    release::mirror::Copy,
    runtime::{Route, Snapshot},
    telemetry::trace::Trace,
    upstream::{Exchange, Lease, Pass, Turn, Upstream},
};

use super::{connection::Connection, forwarded::Told, in_flight::InFlight, inspect::Overrun, room::Bodies};

/// The state of one request.
#[expect(clippy::struct_excessive_bools, reason = "findings that have nothing to do with each other")]
#[derive(Debug)]
pub struct Context {
    /// The configuration that the whole request runs under, whatever is loaded meanwhile.
    pub snapshot: Arc<Snapshot>,
    /// When the request arrived.
    pub started: Moment,
    /// The id that logs, problems and upstreams know the request by.
    pub request_id: RequestId,
    /// The trace that the request belongs to.
    pub trace: Trace,
    /// Who sent the request.
    pub client_ip: IpAddr,
    /// Whether it came over TLS, as far as the gateway knows or a trusted proxy says.
    pub secure: bool,
    /// What trusted proxies say of it.
    pub told: Option<Box<Told>>,
    /// Whether it asks for another protocol, such as WebSocket.
    pub upgrade: bool,
    /// The connection that it came on.
    pub connection: Option<Arc<Connection>>,
    /// Counts the request as in flight until it is over, however it ends.
    pub in_flight: Option<InFlight>,
    /// Counts it as a WebSocket once it is one.
    pub web_socket: Option<InFlight>,
    /// The `Host` or `:authority`, in lower case, without port and final dot.
    pub host: HostName,
    /// The route, once one matched.
    pub route: Option<Arc<Route>>,
    /// Which version of the service it goes to, where the route has several.
    pub version: Option<Version>,
    /// The copy of it for the upstream of `mirror`.
    pub copying: Copying,
    /// Where the parameters of the route's template stand in the path.
    pub params: Params,
    /// Who is calling, once a policy knows.
    pub identity: Option<Arc<Identity>>,
    /// Places of `concurrency` that the request has, given back when it is over, however it ends.
    pub places: SmallVec<[Held; 1]>,
    /// How fast its bodies pass.
    pub paces: SmallVec<[Pace; 1]>,
    /// What is charged for when the answer says how much.
    pub charges: SmallVec<[Charge; 1]>,
    /// The state of the limits that were counted, for response headers.
    pub limits: LimitStates,
    /// Headers to set on whatever response goes out, the gateway's own included.
    pub response_headers: SmallVec<[(HeaderName, HeaderValue); 4]>,
    /// What `response_headers` takes over from the request, by policy and position.
    pub captured: SmallVec<[(u64, HeaderValue); 1]>,
    /// Whether names of headers may be taken for those that the gateway or its policies write.
    pub confusable: bool,
    /// Whether it came with headers that may make it spoil its connection to the upstream for others.
    pub binding: bool,
    /// The largest request body that is let through, in bytes.
    pub max_body: Option<u64>,
    /// Compares the body with what was signed.
    pub body_check: Option<Box<BodyCheck>>,
    /// Whether no body follows, where HTTP/2 or HTTP/3 said so.
    pub bodiless: bool,
    /// What waits for the body to look at it.
    pub inspections: SmallVec<[Box<Inspection>; 1]>,
    /// Rules of `waf` that held.
    pub rules_held: Vec<Hit>,
    /// What was read of a body that nobody looks at after all.
    pub overrun: Overrun,
    /// What policies in shadow mode would let through, and where they count what is larger.
    pub shadow_bodies: SmallVec<[(u64, IntCounter); 1]>,
    /// Codes of the refusals that policies in shadow mode kept to themselves, and rules of hygiene in that mode.
    pub would_reject: SmallVec<[&'static str; 2]>,
    /// What the client speaks, if it is gRPC.
    pub grpc: Option<Kind>,
    /// Translates the bodies, where the client speaks gRPC-Web and the upstream gRPC.
    pub grpc_web: Option<Box<Bridge>>,
    /// The status of gRPC that the client got, for the log.
    pub grpc_status: Option<u16>,
    /// When the exchange has to be over, on the monotonic clock.
    pub deadline: Option<u64>,
    /// What holds for it where answers are kept, if it may get such a one.
    pub cache: Option<Arc<cache::Rules>>,
    /// Headers that policies wrote into the request, of a value that differs from request to request: answers may depend on them.
    pub written: SmallVec<[HeaderName; 1]>,
    /// Notices if what the upstream is asked for is taken away meanwhile.
    pub watch: Option<Box<cache::Watch>>,
    /// What has come of the body of an answer that is kept.
    pub held: BytesMut,
    /// The upstream failed, and an old answer is given instead.
    pub old_instead: bool,
    /// What became of that, and why an answer was not kept, for the log.
    pub cached: Option<(cache::Outcome, Option<&'static str>)>,
    /// Why the gateway answered itself, if it did.
    pub reject: Option<Reject>,
    /// The policy that answered in place of the upstream.
    pub answered_by: Option<&'static str>,
    /// Why it did, for the log.
    pub note: Option<&'static str>,
    /// Whether the policy that runs acts or only counts.
    pub mode: Mode,
    /// What is under way of the bodies.
    pub bodies: Bodies,
    /// What happened towards the upstream.
    pub attempt: Attempt,
}

/// Which version of a service a request goes to.
#[derive(Clone, Copy, Debug)]
pub struct Version {
    /// Its position in the file.
    pub at: usize,
    /// Whether the shares decided that, and not the request itself.
    pub drawn: bool,
}

/// How far the copy of a request is.
#[derive(Debug)]
pub enum Copying {
    /// Nobody has asked for one yet.
    No,
    /// It waits for the body.
    Waiting(Box<Copy>),
    /// It was sent, or there is none.
    Over,
}

/// A host in its normal form, which has at most 255 bytes.
pub type HostName = arrayvec::ArrayString<255>;

/// The state of every limit that applied, in the order in which they were counted.
pub type LimitStates = SmallVec<[LimitState; 4]>;

/// Ranges within the normalised path.
pub type Params = SmallVec<[Range<usize>; 4]>;

/// What happened towards the upstream.
#[derive(Debug, Default)]
pub struct Attempt {
    /// How often an endpoint was chosen.
    pub tries: u8,
    /// How many of the tries only found that a kept connection had been closed meanwhile.
    pub stale: u8,
    /// The endpoint in use, counted as in flight until this is dropped.
    pub lease: Option<Lease>,
    /// What the connection says of itself, where a second endpoint may be asked.
    pub exchange: Option<Exchange>,
    /// What lets the request go to the upstream; held until it ends.
    pub pass: Option<Pass>,
    /// How long to wait before the next try.
    pub pause: Option<Duration>,
    /// The turn to take or open a connection to the endpoint, while that goes on.
    pub turn: Option<Turn>,
    /// The endpoint of the last try that failed, for the log.
    pub lost: Option<Arc<str>>,
    /// Why the last try, which failed, is not repeated.
    pub unretried: Option<&'static str>,
    /// A whole answer was thrown away to ask another endpoint.
    pub again: bool,
    /// Endpoints, by identity, that failed this request.
    pub failed: SmallVec<[u64; 4]>,
    /// When the last try began, on the monotonic clock.
    pub started: u64,
    /// When it had all of the request, on the monotonic clock: what a client takes for its body is not the endpoint's time.
    pub asked: u64,
    /// How long it took from then until the header of its response was there, in nanoseconds.
    pub took: Option<u64>,
    /// How long the upstream took until the header of its response was there, in nanoseconds.
    pub first_byte: Option<u64>,
    /// Whether the connection had been used before.
    pub reused: bool,
    /// Whether its response has no body.
    pub bodiless: bool,
    /// How many interim responses there were.
    pub interim: u8,
}

/// What is charged for when the answer says how much.
#[derive(Debug)]
pub struct Charge {
    /// Which limit it is.
    pub limit: usize,
    /// Its key in this process.
    pub key: Key,
    /// Its key in the store, if there is one.
    pub parts: Vec<u8>,
}

/// The state of one limit after a request was counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitState {
    /// Requests in a period.
    pub limit: u64,
    /// The period.
    pub period: Duration,
    /// Requests that may come at once.
    pub remaining: u64,
    /// Time until all of the limit is there again.
    pub reset: Duration,
}

/// The id of a request: made by the gateway, or taken from the client where `request_id` says so.
#[derive(Clone, Debug)]
pub enum RequestId {
    /// 128 random bits.
    Made(u128),
    /// What the client sent.
    Given(HeaderValue),
}

impl RequestId {
    /// The id as text.
    pub fn text(&self) -> IdText {
        let mut text = IdText::new();
        match self {
            Self::Made(id) => {
                let written = write!(text, "{id:032x}");
                debug_assert!(written.is_ok(), "it holds 36 bytes");
            }
            Self::Given(value) => text.push_str(value.to_str().unwrap_or_default()),
        }
        text
    }

    /// The id as the value of a header.
    pub fn header_value(&self) -> HeaderValue {
        match self {
            Self::Made(_) => HeaderValue::from_str(&self.text()).unwrap_or_else(|_| HeaderValue::from_static("")),
            Self::Given(value) => value.clone(),
        }
    }
}

/// The text of a [`RequestId`].
pub type IdText = String;

impl Context {
    /// The upstream that the request goes to.
    pub fn upstream(&self) -> Option<&Arc<Upstream>> {
        self.route.as_ref()?.upstream(self.version.map(|version| version.at))
    }

    /// The state of a request that has just arrived.
    pub fn new(snapshot: Arc<Snapshot>, started: Moment) -> Self {
        let (id, span) = rand::random();
        Self {
            snapshot,
            started,
            request_id: RequestId::Made(id),
            trace: Trace::fresh(id, span),
            client_ip: IpAddr::from([0, 0, 0, 0]),
            secure: false,
            told: None,
            upgrade: false,
            connection: None,
            in_flight: None,
            web_socket: None,
            host: HostName::new(),
            route: None,
            version: None,
            copying: Copying::No,
            params: Params::new(),
            identity: None,
            places: SmallVec::new(),
            paces: SmallVec::new(),
            charges: SmallVec::new(),
            limits: SmallVec::new(),
            response_headers: SmallVec::new(),
            captured: SmallVec::new(),
            confusable: false,
            binding: false,
            max_body: None,
            body_check: None,
            bodiless: false,
            inspections: SmallVec::new(),
            rules_held: Vec::new(),
            overrun: Overrun::default(),
            shadow_bodies: SmallVec::new(),
            would_reject: SmallVec::new(),
            grpc: None,
            grpc_web: None,
            grpc_status: None,
            deadline: None,
            cache: None,
            written: SmallVec::new(),
            watch: None,
            held: BytesMut::new(),
            old_instead: false,
            cached: None,
            reject: None,
            answered_by: None,
            note: None,
            mode: Mode::Enforce,
            bodies: Bodies::default(),
            attempt: Attempt::default(),
        }
    }

    /// Takes over what a policy found out about the caller. Credentials of two different consumers, or tokens of two different
    /// subjects, in one request are refused: whichever came first, one of them would have been ignored. `anonymous` gives way to
    /// everyone.
    pub fn authenticated(&mut self, found: &Arc<Identity>, challenge: &HeaderValue) -> Result<(), Reject> {
        let merged = match &self.identity {
            Some(known) if found.anonymous => Arc::clone(known),
            Some(known) if !known.anonymous => {
                let merged = known.merged(found).ok_or_else(|| Reject::Unauthenticated {
                    challenge: challenge.clone(),
                    shown: Shown::Wrong,
                    reason: "the request has credentials of different callers",
                })?;
                Arc::new(merged)
            }
            None | Some(_) => Arc::clone(found),
        };
        self.identity = Some(merged);
        Ok(())
    }

    /// For whom the gateway speaks, as far as it knows.
    pub fn said(&self) -> Said {
        let Some(arrival) = self.connection.as_ref().map(|connection| &connection.arrival) else {
            return Said::Unknown;
        };
        // A proxy that was believed says no port.
        let told = self.told.as_ref().and_then(|told| Some(SocketAddr::new(told.client()?, 0)));
        match told.or(arrival.client) {
            None => Said::Unix,
            Some(client) => {
                let server = arrival.server.unwrap_or_else(|| (Ipv4Addr::UNSPECIFIED, 0).into());
                Said::Tcp { client, server }
            }
        }
    }

    /// Remembers and counts what a policy in shadow mode would have refused.
    pub fn would_reject(&mut self, reject: &Reject, count: &IntCounter) {
        count.inc();
        self.would_reject.push(reject.code());
    }

    /// Looks at how much of the request's body there was so far.
    pub fn body_read(&mut self, read: u64) -> Result<(), Reject> {
        while let Some(at) = self.shadow_bodies.iter().position(|(max, _)| read > *max) {
            let (_, count) = self.shadow_bodies.swap_remove(at);
            self.would_reject(&Reject::BodyTooLarge, &count);
        }
        if self.max_body.is_some_and(|max| read > max) { Err(Reject::BodyTooLarge) } else { Ok(()) }
    }

    /// Looks at a piece of the request's body, before the upstream sees it.
    pub fn body_piece(&mut self, piece: Option<&Bytes>, end: bool) -> Result<(), Reject> {
        let Some(check) = &mut self.body_check else { return Ok(()) };
        if check.piece(piece.map(|piece| &**piece).unwrap_or_default(), end) {
            return Ok(());
        }
        Err(Reject::Unauthenticated {
            challenge: HeaderValue::from_static("Signature"),
            shown: Shown::Wrong,
            reason: "the body is not the one that was signed",
        })
    }

    /// Whether its answer may be kept.
    pub(crate) fn keeps_answers(&self) -> bool {
        self.route.as_ref().is_some_and(|route| route.chain.has("cache"))
    }

    /// The part of `path` that a parameter of the route's template stands for.
    pub fn param<'a>(&self, path: &'a str, name: &str) -> Option<&'a str> {
        let route = self.route.as_ref()?;
        let index = route.params.iter().position(|param| **param == *name)?;
        path.get(self.params.get(index)?.clone())
    }
}

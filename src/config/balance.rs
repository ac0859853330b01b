//! `upstreams.<name>.balance` and what else decides about the endpoint of a request.

use schemars::JsonSchema;
use serde::Deserialize;

use super::types::{Duration, HeaderName, Name, Percent, Secret};

/// How an endpoint is chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// One after the other, by weight.
    #[default]
    RoundRobin,
    /// The one of two random endpoints that has fewer requests in flight.
    LeastRequests,
    /// The one of two random endpoints that is likely to answer first: by its latency, peaks remembered, and its requests in
    /// flight.
    PeakEwma,
    /// Any, by weight.
    Random,
    /// The same endpoint for the same key, as long as it is healthy. Looks at every endpoint: exact, and best up to some
    /// hundred of them.
    Hash(HashKey),
    /// The same by a ring, which takes the same time with any number of endpoints.
    RingHash(Table),
    /// The same by Maglev's table: fastest, but a few keys move between endpoints that stay.
    Maglev(Table),
}

/// A way to find the endpoint of a key.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// What decides.
    pub key: HashKey,
    /// An endpoint with more than this part of the requests in flight that an even spread would give it is left out, so that one
    /// popular key cannot overload it: `125%`. Without it there is no bound.
    pub load: Option<Percent>,
}

/// Sessions that stay with an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sticky {
    /// The name of the cookie; without it, one of the upstream's own, `torana-endpoint-...`.
    pub cookie: Option<Name>,
    /// How long browsers keep it; without it, until they are closed.
    pub ttl: Option<Duration>,
    /// Signs the cookie, so that clients cannot choose an endpoint. Several gateways need the same, and so does one whose
    /// sessions are to last through a restart. Without it the process makes one.
    pub secret: Option<Secret>,
}

/// What decides about the endpoint. A request that lacks it goes anywhere.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HashKey {
    /// The address of the client.
    ClientIp,
    /// The path of the request.
    Path,
    /// Who is calling.
    Consumer,
    /// The value of this header.
    Header(HeaderName),
    /// The value of this cookie.
    Cookie(String),
}

//! What stands in a line.

use std::time::Duration;

use http::Version;
use pingora::{ErrorSource, ErrorType};

use super::{
    AccessLog, Entry,
    json::{Object, escape, put_digits},
};
use crate::{
    proxy::context::{Context, RequestId},
    reject::Reject,
    upstream::Lease,
};

impl AccessLog {
    /// Appends the line of a request.
    pub(super) fn format(&self, entry: &Entry<'_>, out: &mut Vec<u8>) {
        let (ctx, request) = (entry.ctx, entry.request);
        let mut line = Object::begin(out);
        line.with("time", |out| push_time(out, ctx.started.unix));
        match &ctx.request_id {
            RequestId::Made(id) => line.id("request_id", *id),
            RequestId::Given(given) => line.bytes("request_id", given.as_bytes()),
        }
        line.id("trace_id", ctx.trace.trace_id);
        format_client(ctx, &mut line);
        line.text("method", request.method.as_str());
        line.text("scheme", if ctx.secure { "https" } else { "http" });
        line.text("host", &ctx.host);
        line.text("path", request.uri.path());
        if let Some(query) = request.uri.query() {
            line.with("query", |out| self.push_query(out, query));
        }
        line.text("protocol", protocol(request.version));
        if let Some(status) = entry.status {
            line.number("status", status.into());
        }
        if let Some(status) = ctx.grpc_status {
            line.number("grpc_status", status.into());
        }
        line.number("bytes_sent", entry.sent);
        line.number("bytes_received", entry.received);
        line.millis("duration_ms", entry.duration);
        Self::format_route(entry, &mut line);
        format_decisions(ctx, &mut line);
        if let Some(error) = entry.error.filter(|error| !matches!(error.etype(), ErrorType::HTTPStatus(_))) {
            line.text("error", &describe(error));
        }
        if let Some(agent) = request.headers.get(http::header::USER_AGENT) {
            line.bytes("user_agent", agent.as_bytes());
        }
        for name in &self.headers {
            if let Some(value) = request.headers.get(name) {
                line.bytes(name.as_str(), value.as_bytes());
            }
        }
        line.end();
    }

    fn format_route(entry: &Entry<'_>, line: &mut Object<'_>) {
        let ctx = entry.ctx;
        let Some(route) = &ctx.route else { return };
        line.text("route", &route.name);
        if let Some(identity) = &ctx.identity {
            line.text("consumer", identity.name());
        }
        let attempt = &ctx.attempt;
        let chosen = attempt.tries > 0
            || matches!(
                ctx.reject,
                Some(Reject::NoHealthyEndpoint | Reject::UpstreamOverloaded(_) | Reject::CircuitOpen { .. })
            );
        if let Some(upstream) = ctx.upstream().filter(|_| chosen) {
            line.text("upstream", upstream.name());
        }
        if attempt.tries == 0 {
            return;
        }
        if let Some(address) = attempt.lease.as_ref().map(Lease::address).or(attempt.lost.as_deref()) {
            line.text("endpoint", address);
        }
        if let Some(nanos) = attempt.first_byte {
            line.millis("upstream_ms", nanos);
        }
        line.number("tries", attempt.tries.into());
        if let Some(why) = attempt.unretried {
            line.text("not_retried", why);
        }
    }

    /// The query, with the values of secret parameters left out. Some servers part it by `;` as well.
    fn push_query(&self, out: &mut Vec<u8>, query: &str) {
        for pair in query.split_inclusive(['&', ';']) {
            let (text, end) = match pair.strip_suffix(['&', ';']) {
                Some(text) => (text, pair.get(text.len()..).unwrap_or_default()),
                None => (pair, ""),
            };
            match text.split_once('=') {
                Some((name, _)) if self.is_secret(name) => {
                    escape(out, name.as_bytes());
                    out.extend_from_slice(b"=***");
                }
                _ => escape(out, text.as_bytes()),
            }
            out.extend_from_slice(end.as_bytes());
        }
    }

    fn is_secret(&self, name: &str) -> bool {
        let listed = |name: &str| self.secrets.iter().any(|secret| secret.eq_ignore_ascii_case(name));
        // `%74oken` is `token` for the upstream.
        listed(name) || (name.contains(['%', '+']) && listed(&crate::route::decode_query(name)))
    }
}

/// What the gateway decided itself.
fn format_decisions(ctx: &Context, line: &mut Object<'_>) {
    if let Some(reject) = &ctx.reject {
        line.text("reject", reject.code());
        if let Some(reason) = reject.reason() {
            line.text("reason", &reason);
        }
    }
    if let Some((outcome, why)) = ctx.cached {
        line.text("cache", outcome.name());
        if let Some(why) = why {
            line.text("not_kept", why);
        }
    }
    if let Some(policy) = ctx.answered_by {
        line.text("answered_by", policy);
        if let Some(note) = ctx.note {
            line.text("reason", note);
        }
    }
    if !ctx.rules_held.is_empty() {
        let rules: Vec<String> = ctx.rules_held.iter().map(|hit| format!("{} {}", hit.rule, hit.at)).collect();
        line.text("rules", rules.join(", ").trim_end());
    }
    if !ctx.would_reject.is_empty() {
        line.text("would_reject", &ctx.would_reject.join(","));
    }
}

/// The client, and who is at the other end of the connection if that is somebody else.
pub(super) fn format_client(ctx: &Context, line: &mut Object<'_>) {
    let Some(connection) = &ctx.connection else {
        return line.plain("client_ip", ctx.client_ip);
    };
    let (arrival, told) = (&connection.arrival, ctx.told.as_ref().and_then(|told| told.client()));
    match (told, arrival.client) {
        (Some(client), _) => line.plain("client_ip", client),
        (None, Some(_)) => line.bytes("client_ip", connection.client_value.as_bytes()),
        (None, None) => line.text("client_ip", "unix"),
    }
    if told.is_none() && arrival.client == arrival.peer {
        return;
    }
    match arrival.peer {
        Some(peer) => line.plain("peer_ip", peer.ip()),
        None => line.text("peer_ip", "unix"),
    }
}

/// The kind of an error; of one that the upstream made, also what is behind it, without what a client sent.
fn describe(error: &pingora::Error) -> String {
    let kind = error.etype().as_str();
    if *error.esource() == ErrorSource::Downstream {
        return kind.to_owned();
    }
    let text = error.to_string();
    // From the outermost to the innermost; the last one may only name the socket.
    let parts = text.split(" cause: ").flat_map(|part| part.split(" context: ")).map(str::trim);
    let innermost = parts.filter(|part| !part.is_empty() && !part.starts_with("local address")).last();
    match innermost {
        Some(why) if !why.ends_with(kind) => format!("{kind}: {}", why.chars().take(MAX_ERROR).collect::<String>()),
        _ => kind.to_owned(),
    }
}

/// Longer descriptions of errors are cut off.
const MAX_ERROR: usize = 300;

const fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "HTTP/0.9",
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_11 => "HTTP/1.1",
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_3 => "HTTP/3",
        _ => "HTTP",
    }
}

/// `2026-01-31T23:59:59.123Z` ([RFC 3339](https://www.rfc-editor.org/rfc/rfc3339)).
pub(super) fn push_time(out: &mut Vec<u8>, since_1970: Duration) {
    let seconds = since_1970.as_secs();
    let (year, month, day) = crate::date::civil(seconds / 86_400);
    let fields = [
        (0..4, year),
        (5..7, month),
        (8..10, day),
        (11..13, seconds / 3_600 % 24),
        (14..16, seconds / 60 % 60),
        (17..19, seconds % 60),
        (20..23, since_1970.subsec_millis().into()),
    ];
    let mut text = *b"0000-00-00T00:00:00.000Z";
    for (place, value) in fields {
        put_digits(text.get_mut(place).unwrap_or_default(), value);
    }
    out.extend_from_slice(&text);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(seconds: u64) -> String {
        let mut out = Vec::new();
        push_time(&mut out, Duration::from_millis(seconds * 1000 + 7));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn times_are_right_over_leap_years() {
        assert_eq!(time(0), "1970-01-01T00:00:00.007Z");
        assert_eq!(time(951_782_400), "2000-02-29T00:00:00.007Z");
        assert_eq!(time(1_709_251_199), "2024-02-29T23:59:59.007Z");
        assert_eq!(time(4_107_542_400), "2100-03-01T00:00:00.007Z");
    }
}

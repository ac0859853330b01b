//! Who the client is, if proxies stand between: read from what they say in `X-Forwarded-For` or in `Forwarded`
//! ([RFC 7239](https://www.rfc-editor.org/rfc/rfc7239)), as far as they are trusted.
//!
//! # Rules
//!
//! - The walk starts at the other end of the connection. While a hop is a trusted proxy, the next entry of the header,
//!   from the right, is the next hop. The first hop that is not trusted is the client; if all are, the left-most one.
//! - Whatever stands to the left of the client was written by nobody who is trusted: it is neither looked at nor passed on.
//! - Several header lines are one list. Empty entries are passed over.
//! - An entry is an IP address, with or without port (`192.0.2.7:80`, `[2001:db8::7]:80`); an IPv6 zone (`%eth0`) means
//!   nothing here and is left out. In `Forwarded` the address stands in `for`, IPv6 in brackets; the quotes that the RFC
//!   asks for may be missing.
//! - Anything else, `unknown` and names that hide the address (`_hidden`) too, stops the walk: the hop that said it is the
//!   client.
//! - `Forwarded` is read from its end as well: a quotation mark that a client left open hides nothing that a trusted
//!   proxy added behind it.

use std::{
    borrow::Cow,
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use http::{HeaderMap, HeaderName, HeaderValue, header};
use pingora::http::RequestHeader;
use smallvec::SmallVec;

use super::context::Context;
use crate::{config::listener::ForwardedBy, networks::Peers, route::normalise_host};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");

/// What trusted proxies say of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// The hops before the other end of the connection, the last one first: the client is at the end. Empty if that end is
    /// the client.
    pub hops: SmallVec<[IpAddr; 4]>,
    /// Whether the client spoke TLS.
    pub secure: Option<bool>,
    /// The host that the client asked for.
    pub host: Option<HeaderValue>,
    /// The port that it came to.
    pub port: Option<HeaderValue>,
}

impl Told {
    /// Reads what stands in these headers; the other end of the connection is trusted.
    pub fn read(by: ForwardedBy, headers: &HeaderMap, trusted: &Peers) -> Self {
        match by {
            ForwardedBy::XForwardedFor => Self {
                hops: walk(entries(headers, &X_FORWARDED_FOR).map(address), trusted).hops,
                secure: only(headers, &X_FORWARDED_PROTO).and_then(|value| scheme(value.as_bytes())),
                host: only(headers, &X_FORWARDED_HOST).filter(|value| is_host(value)).cloned(),
                port: only(headers, &X_FORWARDED_PORT).filter(|value| is_port(value.as_bytes())).cloned(),
            },
            ForwardedBy::Forwarded => {
                let found = walk(elements(headers).map(element), trusted);
                let (secure, host) = found.last.unwrap_or_default();
                let host = host.and_then(|host| HeaderValue::from_bytes(&host).ok()).filter(is_host);
                Self { hops: found.hops, secure, host, port: None }
            }
        }
    }

    /// The client; `None` if it is the other end of the connection.
    pub fn client(&self) -> Option<IpAddr> {
        self.hops.last().copied()
    }

    /// All hops for `X-Forwarded-For`, the client first; the other end of the connection, which comes last, is given.
    pub fn for_value(&self, peer: &HeaderValue) -> HeaderValue {
        if self.hops.is_empty() {
            return peer.clone();
        }
        let mut text = String::with_capacity(self.hops.len() * 18 + 16);
        for hop in self.hops.iter().rev() {
            // Writing to a string cannot fail.
            _ = write!(text, "{hop}, ");
        }
        let whole = [text.as_bytes(), peer.as_bytes()].concat();
        HeaderValue::from_bytes(&whole).unwrap_or_else(|_| peer.clone())
    }
}

/// Takes over what trusted proxies say of a request.
pub(super) fn believe(request: &RequestHeader, ctx: &mut Context) {
    let Some(arrival) = ctx.connection.as_ref().map(|connection| &connection.arrival) else { return };
    let Some(proxies) = ctx.snapshot.proxies(arrival.listener) else { return };
    if !proxies.trusted.contains(arrival.client_ip()) {
        return;
    }
    let told = Told::read(proxies.by, &request.headers, &proxies.trusted);
    if let Some(client) = told.client() {
        ctx.client_ip = client;
    }
    if let Some(secure) = told.secure {
        ctx.secure = secure;
    }
    ctx.told = Some(Box::new(told));
}

/// The value of `Forwarded` for the upstream: all hops, the client first, with what it asked for.
pub(super) fn whole(ctx: &Context, host: Option<&HeaderValue>) -> HeaderValue {
    let told = ctx.told.as_ref();
    let hops = told.map(|told| told.hops.as_slice()).unwrap_or_default();
    let peer = ctx.connection.as_ref().and_then(|connection| connection.arrival.client_ip());
    let mut nodes = hops.iter().rev().map(|hop| node_text(Some(*hop))).chain([node_text(peer)]);
    let mut text = nodes.next().unwrap_or_default();
    let host = told.and_then(|told| told.host.as_ref()).or(host);
    if let Some(host) = host.and_then(|host| host.to_str().ok()).filter(|host| !host.is_empty()) {
        text.extend([";host=\"", host, "\""]);
    }
    text.push_str(if ctx.secure { ";proto=https" } else { ";proto=http" });
    for node in nodes {
        text.extend([", ", &node]);
    }
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("for=unknown"))
}

fn node_text(ip: Option<IpAddr>) -> String {
    match ip {
        None => "for=unknown".into(),
        Some(IpAddr::V4(v4)) => format!("for={v4}"),
        Some(IpAddr::V6(v6)) => format!("for=\"[{v6}]\""),
    }
}

/// What an element of `Forwarded` says besides the address.
type Beside = (Option<bool>, Option<Vec<u8>>);

struct Found<B> {
    hops: SmallVec<[IpAddr; 4]>,
    /// What stood beside the last hop.
    last: Option<B>,
}

fn walk<B>(entries: impl Iterator<Item = Option<(IpAddr, B)>>, trusted: &Peers) -> Found<B> {
    let mut found = Found { hops: SmallVec::new(), last: None };
    for entry in entries {
        let Some((hop, beside)) = entry else { break };
        found.hops.push(hop);
        found.last = Some(beside);
        if !trusted.contains(Some(hop)) {
            break;
        }
    }
    found
}

/// The value of a header that is there once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut all = headers.get_all(name).iter();
    all.next().filter(|_| all.next().is_none())
}

fn scheme(text: &[u8]) -> Option<bool> {
    if text.eq_ignore_ascii_case(b"https") || text.eq_ignore_ascii_case(b"wss") {
        Some(true)
    } else if text.eq_ignore_ascii_case(b"http") || text.eq_ignore_ascii_case(b"ws") {
        Some(false)
    } else {
        None
    }
}

fn is_host(value: &HeaderValue) -> bool {
    value.to_str().is_ok_and(|text| normalise_host(text).is_some_and(|host| !host.is_empty()))
}

fn is_port(text: &[u8]) -> bool {
    let digits = (1..=5).contains(&text.len()) && text.iter().all(u8::is_ascii_digit);
    digits && std::str::from_utf8(text).is_ok_and(|text| text.parse::<u16>().is_ok())
}

/// The entries of a list, from the last to the first, without the empty ones.
fn entries<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    let lines = headers.get_all(name).iter().rev();
    let entries = lines.flat_map(|value| value.as_bytes().rsplit(|byte| *byte == b','));
    entries.map(<[u8]>::trim_ascii).filter(|entry| !entry.is_empty())
}

/// The address in an entry of `X-Forwarded-For`.
fn address(entry: &[u8]) -> Option<(IpAddr, ())> {
    let text = std::str::from_utf8(entry).ok()?;
    let found = match without_zone(text).parse::<Ipv6Addr>() {
        Ok(v6) => v6.to_canonical(),
        Err(_) => node(text, |port| is_port(port.as_bytes()))?,
    };
    Some((found, ()))
}

/// `192.0.2.7`, `192.0.2.7:80`, `[2001:db8::7]`, `[2001:db8::7]:80`.
fn node(text: &str, is_port: impl Fn(&str) -> bool) -> Option<IpAddr> {
    let (ip, rest) = if let Some(rest) = text.strip_prefix('[') {
        let (v6, rest) = rest.split_once(']')?;
        (without_zone(v6).parse::<Ipv6Addr>().ok()?.to_canonical(), rest)
    } else {
        let at = text.find(':').unwrap_or(text.len());
        let (v4, rest) = text.split_at_checked(at)?;
        (v4.parse::<Ipv4Addr>().ok()?.into(), rest)
    };
    let fits = rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port);
    fits.then_some(ip)
}

/// `fe80::1%eth0` is `fe80::1`.
fn without_zone(text: &str) -> &str {
    match text.split_once('%') {
        Some((address, zone)) if !zone.is_empty() && zone.bytes().all(is_plain) => address,
        _ => text,
    }
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'~')
}

/// The elements of `Forwarded`, from the last to the first, without the empty ones; `None` for what is no list.
fn elements(headers: &HeaderMap) -> impl Iterator<Item = Option<&[u8]>> {
    let lines = headers.get_all(header::FORWARDED).iter().rev();
    let elements = lines.flat_map(|value| Backwards(Some(value.as_bytes())));
    elements.filter(|element| element.is_none_or(|element| !element.is_empty()))
}

struct Backwards<'a>(Option<&'a [u8]>);

impl<'a> Iterator for Backwards<'a> {
    type Item = Option<&'a [u8]>;

    fn next(&mut self) -> Option<Option<&'a [u8]>> {
        let rest = self.0.take()?;
        let mut end = rest.len();
        while let Some(last) = end.checked_sub(1) {
            match rest.get(last) {
                Some(b',') => {
                    self.0 = rest.get(..last);
                    return Some(rest.get(end..).map(<[u8]>::trim_ascii));
                }
                Some(b'"') => match opening(rest.get(..last).unwrap_or_default()) {
                    Some(at) => end = at,
                    None => return Some(None),
                },
                _ => end = last,
            }
        }
        Some(Some(rest.trim_ascii()))
    }
}

/// Where the quotation mark is that opens what ends behind this text.
fn opening(text: &[u8]) -> Option<usize> {
    let mut end = text.len();
    loop {
        let at = memchr::memrchr(b'"', text.get(..end)?)?;
        let before = text.get(..at)?;
        let escapes = before.iter().rev().take_while(|byte| **byte == b'\\').count();
        if escapes % 2 == 0 {
            return Some(at);
        }
        end = at - escapes;
    }
}

/// The address in an element of `Forwarded`, and what stands beside it.
fn element(element: Option<&[u8]>) -> Option<(IpAddr, Beside)> {
    let (mut ip, mut secure, mut host) = (None, None, None);
    let mut rest = Some(element?);
    while let Some(text) = rest {
        let (name, value, behind) = pair(text)?;
        rest = behind;
        if name.eq_ignore_ascii_case(b"for") {
            let text = std::str::from_utf8(&value).ok()?;
            let found = node(text, |port| is_port(port.as_bytes()) || is_hidden(port))?;
            if ip.replace(found).is_some() {
                return None;
            }
        } else if name.eq_ignore_ascii_case(b"proto") {
            secure = scheme(&value);
        } else if name.eq_ignore_ascii_case(b"host") {
            host = Some(value.into_owned());
        }
    }
    Some((ip?, (secure, host)))
}

/// `_name`
fn is_hidden(port: &str) -> bool {
    port.strip_prefix('_').is_some_and(|name| !name.is_empty() && name.bytes().all(is_plain))
}

type Pair<'a> = (&'a [u8], Cow<'a, [u8]>, Option<&'a [u8]>);

/// The first `name=value` of an element, and what stands behind its semicolon.
fn pair(text: &[u8]) -> Option<Pair<'_>> {
    let text = text.trim_ascii();
    let at = memchr::memchr(b'=', text)?;
    let (name, value) = (text.get(..at)?, text.get(at + 1..)?);
    let (value, rest) = if let Some(quoted) = value.strip_prefix(b"\"") {
        unquote(quoted)?
    } else {
        let end = memchr::memchr(b';', value).unwrap_or(value.len());
        (Cow::Borrowed(value.get(..end)?.trim_ascii_end()), value.get(end..)?)
    };
    let rest = rest.trim_ascii_start();
    let behind = if rest.is_empty() { None } else { Some(rest.strip_prefix(b";")?) };
    let named = !name.is_empty() && name.iter().all(|byte| is_plain(*byte));
    // A semicolon at the end is common.
    named.then_some((name, value, behind.filter(|behind| !behind.trim_ascii().is_empty())))
}

/// The text up to the closing quotation mark, and what stands behind it.
fn unquote(quoted: &[u8]) -> Option<(Cow<'_, [u8]>, &[u8])> {
    let end = memchr::memchr2(b'"', b'\\', quoted)?;
    if quoted.get(end) == Some(&b'"') {
        return Some((Cow::Borrowed(quoted.get(..end)?), quoted.get(end + 1..)?));
    }
    let mut text = quoted.get(..end)?.to_vec();
    let mut rest = quoted.get(end..)?;
    loop {
        rest = match rest {
            [b'"', behind @ ..] => return Some((Cow::Owned(text), behind)),
            [b'\\', byte, behind @ ..] | [byte, behind @ ..] => {
                text.push(*byte);
                behind
            }
            [] => return None,
        };
    }
}

#[cfg(test)]
mod tests;

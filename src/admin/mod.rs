//! The admin listener: `/live`, `/ready`, `/metrics`, `/status`, `/endpoint`, `/quota`, `/penalty_box`, `/cache`.
//!
//! - `/live` is 200 as soon as the process answers: restart it if not.
//! - `/ready` is 200 while requests should be sent here, else 503 with the reasons.
//! - `/metrics` is Prometheus' text format; `/status` is JSON for people and scripts.
//! - Only GET and HEAD; nothing here changes anything, but for:
//! - `GET /quota` is what keys have used of quotas, as JSON; `POST /quota?quota=orders&key=consumer:mobile_app&do=reset` (or `do=top_up&amount=1000`)
//!   changes it, where `admin.changes` allows it.
//! - `GET /penalty_box` is who is turned away for being refused too often; `POST /penalty_box?address=192.0.2.1&do=release` lets an address in again, where
//!   `admin.changes` allows it.
//! - `POST /cache?do=purge&route=NAME` (or `url=https://api.example.com/x`, or `all=true`) takes away what `cache` keeps, where `admin.changes` allows it.
//! - `POST /endpoint?upstream=orders&address=10.0.0.12:8080&do=drain` (or `disable`, `enable`), where `admin.changes` allows it. A request
//!   that a web page makes (it has `Origin`) is refused.
//! - `Host` must be an IP address, `localhost`, or a name in `admin.hosts`: a web page that makes a browser resolve its own
//!   name to this address (DNS rebinding) gets 421.
//!
//! There is no authentication: the listener belongs on a loopback address or a Unix socket, and is warned about elsewhere.

pub mod status;

use std::{fmt, net::IpAddr, sync::Arc};

use async_trait::async_trait;
use http::{Method, Response, StatusCode, header};
use pingora::{apps::http_app::ServeHttp, protocols::http::ServerSession};

pub use self::status::{Boxed, Status};
use crate::{
    policy::{
        cache::Purge,
        quota::{Change, Used},
    },
    problem,
    route::query_values,
    upstream::Standing,
};

/// What the admin listener tells; the process knows it.
pub trait Facts: Send + Sync {
    /// Whether requests should be sent here, or why not.
    fn ready(&self) -> Result<(), Vec<String>>;

    /// The metrics in Prometheus' text format.
    fn metrics(&self) -> Vec<u8>;

    /// What runs.
    fn status(&self) -> Status;

    /// Who is in the penalty box.
    fn penalties(&self) -> Vec<Boxed>;

    /// Lets an address out of it; says so, or why not.
    fn release(&self, address: IpAddr) -> Result<String, String>;

    /// Takes away what is kept of answers; says how much, or why not.
    fn purge(&self, what: &Purge) -> Result<String, String>;

    /// What keys have used of quotas.
    fn quotas(&self) -> Vec<Used>;

    /// Does this to a key of a quota; says what it did, or why not.
    fn change_quota(&self, quota: &str, key: &str, change: Change) -> Result<String, String>;

    /// Has an endpoint of an upstream stand like this; says how it stands now, or why not.
    fn stand(&self, upstream: &str, address: &str, standing: Standing) -> Result<String, String>;
}

/// Answers on the admin listener.
pub struct Admin {
    facts: Arc<dyn Facts>,
    hosts: Box<[String]>,
    changes: bool,
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").field("hosts", &self.hosts).finish_non_exhaustive()
    }
}

type Answer = Response<Vec<u8>>;

impl Admin {
    /// `hosts` are the names that may stand in `Host` besides IP addresses and `localhost`; `changes` allows to drain endpoints.
    pub fn new(facts: Arc<dyn Facts>, hosts: impl IntoIterator<Item = String>, changes: bool) -> Self {
        Self { facts, hosts: hosts.into_iter().map(|host| host.to_ascii_lowercase()).collect(), changes }
    }

    fn answer(&self, method: &Method, host: Option<&str>, path: &str, query: Option<&str>) -> Answer {
        if !host.is_some_and(|host| self.is_expected(host)) {
            return refuse(
                StatusCode::MISDIRECTED_REQUEST,
                "the Host is neither an address, nor `localhost`, nor in `admin.hosts`",
            );
        }
        if is_change(method, path) {
            return self.change(method, path, query.unwrap_or_default());
        }
        if !is_read(method) {
            let mut answer = refuse(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are answered here");
            answer.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static("GET, HEAD"));
            return answer;
        }
        match path {
            "/live" => text("live\n".into()),
            "/ready" => match self.facts.ready() {
                Ok(()) => text("ready\n".into()),
                Err(reasons) => {
                    json(StatusCode::SERVICE_UNAVAILABLE, &serde_json::json!({ "ready": false, "reasons": reasons }))
                }
            },
            "/metrics" => content("text/plain; version=0.0.4; charset=utf-8", self.facts.metrics()),
            "/status" => json(StatusCode::OK, &self.facts.status()),
            "/quota" => json(StatusCode::OK, &self.facts.quotas()),
            "/penalty_box" => json(StatusCode::OK, &self.facts.penalties()),
            _ => refuse(
                StatusCode::NOT_FOUND,
                "there is /live, /ready, /metrics, /status, /endpoint, /quota, /penalty_box and /cache",
            ),
        }
    }

    fn change(&self, method: &Method, path: &str, query: &str) -> Answer {
        if method != Method::POST {
            let mut answer = refuse(StatusCode::METHOD_NOT_ALLOWED, "only POST is answered here");
            answer.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static("POST"));
            return answer;
        }
        if !self.changes {
            return refuse(
                StatusCode::FORBIDDEN,
                "changes are not allowed here: set `admin.changes`, or use `torana endpoint`, `torana quota` and their like",
            );
        }
        match path {
            "/quota" => self.quota(query),
            "/penalty_box" => self.release(query),
            "/cache" => self.purge(query),
            _ => self.stand(query),
        }
    }

    fn release(&self, query: &str) -> Answer {
        let address = only(query, "address").and_then(|address| address.parse().ok());
        let (Some(address), Some("release")) = (address, only(query, "do").as_deref()) else {
            return refuse(StatusCode::BAD_REQUEST, "ask for `/penalty_box?address=ADDRESS&do=release`");
        };
        changed(self.facts.release(address))
    }

    fn purge(&self, query: &str) -> Answer {
        let value = |key| only(query, key);
        // A URL that is not encoded has parameters of its own.
        let mut keys = query.split('&').map(|pair| pair.split('=').next().unwrap_or_default());
        let known = keys.all(|key| ["do", "route", "url", "all"].contains(&key));
        let what = match (
            value("do").as_deref().filter(|_| known),
            value("route"),
            value("url"),
            value("all").as_deref(),
        ) {
            (Some("purge"), Some(route), None, None) => Purge::Route(route),
            (Some("purge"), None, Some(url), None) => Purge::Url(url),
            (Some("purge"), None, None, Some("true")) => Purge::All,
            _ => {
                let usage = "ask for `/cache?do=purge&route=NAME`, or `...&url=URL`, or `...&all=true`; an `&` in the URL is `%26`";
                return refuse(StatusCode::BAD_REQUEST, usage);
            }
        };
        changed(self.facts.purge(&what))
    }

    fn quota(&self, query: &str) -> Answer {
        let usage = "ask for `/quota?quota=NAME&key=KEY&do=reset`, or `...&do=top_up&amount=NUMBER`";
        let value = |key| only(query, key);
        let (Some(quota), Some(key), Some(wanted)) = (value("quota"), value("key"), value("do")) else {
            return refuse(StatusCode::BAD_REQUEST, usage);
        };
        let change = match (&*wanted, value("amount").map(|amount| amount.parse())) {
            ("reset", None) => Change::Reset,
            ("top_up", Some(Ok(amount))) => Change::TopUp(amount),
            _ => return refuse(StatusCode::BAD_REQUEST, usage),
        };
        changed(self.facts.change_quota(&quota, &key, change))
    }

    fn stand(&self, query: &str) -> Answer {
        let usage = "ask for `/endpoint?upstream=NAME&address=ADDRESS&do=drain`";
        let value = |key| only(query, key);
        let (Some(upstream), Some(address), Some(wanted)) = (value("upstream"), value("address"), value("do")) else {
            return refuse(StatusCode::BAD_REQUEST, usage);
        };
        match wanted.parse::<Standing>().map(|standing| self.facts.stand(&upstream, &address, standing)) {
            Ok(done) => changed(done),
            Err(why) => refuse(StatusCode::BAD_REQUEST, &why),
        }
    }

    fn is_expected(&self, host: &str) -> bool {
        let Some(host) = crate::route::normalise_host(host) else {
            return false;
        };
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        bare.parse::<IpAddr>().is_ok() || host == "localhost" || self.hosts.iter().any(|known| *known == *host)
    }
}

#[async_trait]
impl ServeHttp for Admin {
    async fn response(&self, session: &mut ServerSession) -> Answer {
        let request = session.req_header();
        let sent = request.headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let host = request.uri.authority().map(http::uri::Authority::as_str).or(sent);
        let from_page = is_change(&request.method, request.uri.path()) && request.headers.contains_key(header::ORIGIN);
        let mut answer = if from_page {
            refuse(StatusCode::FORBIDDEN, "web pages change nothing here")
        } else {
            self.answer(&request.method, host, request.uri.path(), request.uri.query())
        };
        let length = answer.body().len();
        answer.headers_mut().insert(header::CONTENT_LENGTH, length.into());
        if request.method == Method::HEAD {
            answer.body_mut().clear();
        }
        answer
    }
}

fn is_read(method: &Method) -> bool {
    method == Method::GET || method == Method::HEAD
}

/// Whether something is to be changed. Endpoints are shown by `/status`.
fn is_change(method: &Method, path: &str) -> bool {
    ["/endpoint", "/cache"].contains(&path) || ["/quota", "/penalty_box"].contains(&path) && !is_read(method)
}

/// The value of a parameter that stands there once.
fn only(query: &str, key: &str) -> Option<String> {
    let mut found = query_values(query, key);
    found.next().filter(|_| found.next().is_none()).map(Into::into)
}

/// What was done, or why there is nothing to do it to.
fn changed(done: Result<String, String>) -> Answer {
    done.map_or_else(|why| refuse(StatusCode::NOT_FOUND, &why), |done| text(done + "\n"))
}

fn content(kind: &'static str, body: Vec<u8>) -> Answer {
    let mut answer = Response::new(body);
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, header::HeaderValue::from_static("nosniff"));
    answer
}

fn text(body: String) -> Answer {
    content("text/plain; charset=utf-8", body.into_bytes())
}

fn json(status: StatusCode, value: &impl serde::Serialize) -> Answer {
    // Plain structs: serialization cannot fail.
    let mut body = serde_json::to_vec_pretty(value).unwrap_or_default();
    body.push(b'\n');
    let mut answer = content("application/json", body);
    *answer.status_mut() = status;
    answer
}

fn refuse(status: StatusCode, detail: &str) -> Answer {
    let document = serde_json::json!({
        "type": "about:blank",
        "title": status.canonical_reason(),
        "status": status.as_u16(),
        "detail": detail,
    });
    let mut answer = json(status, &document);
    answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(problem::MEDIA_TYPE));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    struct NotReady;

    impl Facts for NotReady {
        fn ready(&self) -> Result<(), Vec<String>> {
            Err(vec!["starting".into()])
        }

        fn metrics(&self) -> Vec<u8> {
            b"torana_up 1\n".to_vec()
        }

        fn status(&self) -> Status {
            Status::default()
        }

        fn penalties(&self) -> Vec<Boxed> {
            Vec::new()
        }

        fn release(&self, address: IpAddr) -> Result<String, String> {
            if address.is_loopback() { Ok(format!("{address} is let in")) } else { Err("not in it".into()) }
        }

        fn purge(&self, what: &Purge) -> Result<String, String> {
            if *what == Purge::Route("other".into()) { Err("no such route".into()) } else { Ok(format!("{what:?}")) }
        }

        fn quotas(&self) -> Vec<Used> {
            vec![Used { quota: "orders".into(), key: "a".into(), used: 1, limit: 2 }]
        }

        fn change_quota(&self, quota: &str, key: &str, change: Change) -> Result<String, String> {
            if quota == "orders" { Ok(format!("{key}: {change:?}")) } else { Err("no such quota".into()) }
        }

        fn stand(&self, upstream: &str, address: &str, standing: Standing) -> Result<String, String> {
            if upstream == "up" { Ok(format!("{address} is {standing}")) } else { Err("no such upstream".into()) }
        }
    }

    fn answer(method: &Method, host: &str, path: &str) -> Answer {
        asked(true, method, host, path)
    }

    fn asked(changes: bool, method: &Method, host: &str, target: &str) -> Answer {
        let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
        Admin::new(Arc::new(NotReady), ["ops.example".into()], changes).answer(method, Some(host), path, query)
    }

    #[test]
    fn endpoints_are_drained_by_whom_the_file_allows_it() {
        let drain = "/endpoint?upstream=up&address=unix:%2Frun%2Fa.sock&do=drain";
        assert_eq!(asked(false, &Method::POST, "localhost", drain).status(), 403);
        let done = answer(&Method::POST, "localhost", drain);
        assert_eq!((done.status().as_u16(), done.body().as_slice()), (200, &b"unix:/run/a.sock is draining\n"[..]));
        for (target, status) in [
            ("/endpoint", 400),
            ("/endpoint?upstream=up&address=a&do=kill", 400),
            ("/endpoint?upstream=up&upstream=up&address=a&do=drain", 400),
            ("/endpoint?upstream=other&address=a&do=drain", 404),
        ] {
            assert_eq!(answer(&Method::POST, "localhost", target).status(), status, "{target}");
        }
        assert_eq!(answer(&Method::GET, "localhost", drain).status(), 405);
        assert_eq!(answer(&Method::POST, "evil.example", drain).status(), 421);
    }

    #[test]
    fn kept_answers_are_taken_away_by_whom_the_file_allows_it() {
        let purge = "/cache?do=purge&route=orders";
        assert_eq!(asked(false, &Method::POST, "localhost", purge).status(), 403);
        for (target, status) in [
            (purge, 200),
            ("/cache?do=purge&url=https:%2F%2Fa%2Fx", 200),
            ("/cache?do=purge&all=true", 200),
            ("/cache?do=purge&route=other", 404),
            ("/cache?do=purge&route=orders&all=true", 400),
            ("/cache?do=purge", 400),
            ("/cache?do=purge&url=https://a/x?b=1&c=2", 400),
            ("/cache", 400),
        ] {
            assert_eq!(answer(&Method::POST, "localhost", target).status(), status, "{target}");
        }
        assert_eq!(answer(&Method::GET, "localhost", purge).status(), 405);
    }

    #[test]
    fn quotas_are_shown_to_all_and_changed_by_whom_the_file_allows_it() {
        let shown = answer(&Method::GET, "localhost", "/quota");
        assert!(String::from_utf8_lossy(shown.body()).contains("\"used\": 1"));
        let reset = "/quota?quota=orders&key=a&do=reset";
        assert_eq!(asked(false, &Method::POST, "localhost", reset).status(), 403);
        for (target, status) in [
            (reset, 200),
            ("/quota?quota=orders&key=a&do=top_up&amount=5", 200),
            ("/quota?quota=orders&key=a&do=top_up", 400),
            ("/quota?quota=orders&key=a&do=top_up&amount=-5", 400),
            ("/quota?quota=orders&key=a&do=forget", 400),
            ("/quota?quota=orders&do=reset", 400),
            ("/quota?quota=other&key=a&do=reset", 404),
        ] {
            assert_eq!(answer(&Method::POST, "localhost", target).status(), status, "{target}");
        }
    }

    #[test]
    fn addresses_are_let_out_of_the_penalty_box_by_whom_the_file_allows_it() {
        assert_eq!(answer(&Method::GET, "localhost", "/penalty_box").status(), 200);
        let release = "/penalty_box?address=127.0.0.1&do=release";
        assert_eq!(asked(false, &Method::POST, "localhost", release).status(), 403);
        for (target, status) in [
            (release, 200),
            ("/penalty_box?address=192.0.2.1&do=release", 404),
            ("/penalty_box?address=x&do=release", 400),
            ("/penalty_box?address=127.0.0.1", 400),
        ] {
            assert_eq!(answer(&Method::POST, "localhost", target).status(), status, "{target}");
        }
    }

    #[test]
    fn every_page_answers() {
        for (path, status) in
            [("/live", 200), ("/ready", 503), ("/metrics", 200), ("/status", 200), ("/", 404), ("/status/", 404)]
        {
            assert_eq!(answer(&Method::GET, "127.0.0.1:9901", path).status(), status, "{path}");
        }
        assert_eq!(answer(&Method::POST, "127.0.0.1", "/status").status(), 405);
    }

    #[test]
    fn a_rebound_name_is_refused() {
        for host in ["127.0.0.1:9901", "[::1]:9901", "localhost", "LOCALHOST:1", "ops.example"] {
            assert_eq!(answer(&Method::GET, host, "/live").status(), 200, "{host}");
        }
        for host in ["evil.example", "127.0.0.1.evil.example", "localhost.evil", "", "a b"] {
            assert_eq!(answer(&Method::GET, host, "/status").status(), 421, "{host}");
        }
    }
}

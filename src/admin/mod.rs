//! The admin listener: `/live`, `/ready`, `/metrics`, `/status`.
//!
//! - `/live` is 200 as soon as the process answers: restart it if not.
//! - `/ready` is 200 while requests should be sent here, else 503 with the reasons.
//! - `/metrics` is Prometheus' text format; `/status` is JSON for people and scripts.
//! - Only GET and HEAD; nothing here changes anything.
//! - `Host` must be an IP address, `localhost`, or a name in `admin.hosts`: a web page that makes a browser resolve its own
//!   name to this address (DNS rebinding) gets 421.
//!
//! There is no authentication: the listener belongs on a loopback address or a Unix socket, and is warned about elsewhere.

pub mod status;

use std::{fmt, net::IpAddr, sync::Arc};

use async_trait::async_trait;
use http::{Method, Response, StatusCode, header};
use pingora::{apps::http_app::ServeHttp, protocols::http::ServerSession};

pub use self::status::Status;
use crate::problem;

/// What the admin listener tells; the process knows it.
pub trait Facts: Send + Sync {
    /// Whether requests should be sent here, or why not.
    fn ready(&self) -> Result<(), Vec<String>>;

    /// The metrics in Prometheus' text format.
    fn metrics(&self) -> Vec<u8>;

    /// What runs.
    fn status(&self) -> Status;
}

/// Answers on the admin listener.
pub struct Admin {
    facts: Arc<dyn Facts>,
    hosts: Box<[String]>,
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").field("hosts", &self.hosts).finish_non_exhaustive()
    }
}

type Answer = Response<Vec<u8>>;

impl Admin {
    /// `hosts` are the names that may stand in `Host` besides IP addresses and `localhost`.
    pub fn new(facts: Arc<dyn Facts>, hosts: impl IntoIterator<Item = String>) -> Self {
        Self { facts, hosts: hosts.into_iter().map(|host| host.to_ascii_lowercase()).collect() }
    }

    fn answer(&self, method: &Method, host: Option<&str>, path: &str) -> Answer {
        if !host.is_some_and(|host| self.is_expected(host)) {
            return refuse(
                StatusCode::MISDIRECTED_REQUEST,
                "the Host is neither an address, nor `localhost`, nor in `admin.hosts`",
            );
        }
        if method != Method::GET && method != Method::HEAD {
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
            _ => refuse(StatusCode::NOT_FOUND, "there is /live, /ready, /metrics and /status"),
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
        let mut answer = self.answer(&request.method, host, request.uri.path());
        let length = answer.body().len();
        answer.headers_mut().insert(header::CONTENT_LENGTH, length.into());
        if request.method == Method::HEAD {
            answer.body_mut().clear();
        }
        answer
    }
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
    }

    fn answer(method: &Method, host: &str, path: &str) -> Answer {
        Admin::new(Arc::new(NotReady), ["ops.example".into()]).answer(method, Some(host), path)
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

//! The access log: one line of JSON for each request, written off the request path.
//!
//! A request formats its line into a buffer of its thread and appends it to one that all share: no system call, no wake-up.
//! A thread writes the shared buffer out ten times a second, or when it is half full. If the disk does not keep up, lines
//! are dropped and counted (`torana_access_log_dropped_total`); requests never wait.
//!
//! | field | what |
//! |---|---|
//! | `time` | when the request arrived, RFC 3339 in UTC |
//! | `request_id`, `trace_id` | as upstreams and the client know them |
//! | `peer_ip` | who is at the other end of the connection, if that is a proxy that said for whom it speaks; `unix` for a Unix socket |
//! | `client_ip`, `method`, `scheme`, `host`, `path`, `query`, `protocol`, `user_agent` | what was asked; the path in normal form |
//! | `status`, `bytes_sent`, `bytes_received`, `duration_ms` | what came of it; no `status` if the client was gone |
//! | `route`, `consumer` | which route took it, who called |
//! | `upstream`, `endpoint`, `upstream_ms`, `tries` | where it went, and how long the header of the response took |
//! | `not_retried` | why the last try, which failed, was not repeated: `attempts`, `budget`, `method`, `body` (too large to keep), `begun` (the client had a part of the answer), `not_listed` in `retries.on`, `no_other_endpoint` |
//! | `cache` | what the policy `cache` did: `hit`, `stale`, `revalidated`, `expired`, `miss`, `bypass` |
//! | `not_kept` | why it did not keep the answer: `set_cookie`, `private`, `no_lifetime`, `head_or_range`, ... |
//! | `reject`, `reason` | why the gateway answered itself; what was wrong with a request or a credential |
//! | `answered_by` | the policy that answered in place of the upstream: `oidc` with a redirect, `forward_auth`, `cors`; `reason` may say why |
//! | `rules` | the rules of `waf` that held, and what each was about: `942100 ARGS:q` |
//! | `would_reject` | what policies with `mode: shadow` would have answered, with commas between |
//! | `error` | what went wrong towards the upstream or the client: the kind in Pingora's words, and what is behind it |
//!
//! Values of query parameters that carry secrets are `***`; those that policies look at are among them. Control characters are escaped, so that no request can write
//! a line of its own. SIGHUP opens the file again, for logrotate.

mod json;
mod line;
mod tunnel;
mod writer;

pub use self::tunnel::Tunnel;
use std::{cell::RefCell, sync::Arc};

use pingora::http::RequestHeader;

use self::writer::Writer;
use crate::{
    config::{Config, Diagnostic, steps, telemetry},
    policy::Secrets,
    proxy::context::Context,
    runtime::Build,
};

/// Where and what to log.
#[derive(Debug)]
pub struct AccessLog {
    writer: Arc<Writer>,
    /// Names of query parameters with secrets, in lower case.
    secrets: Box<[Box<str>]>,
    headers: Box<[http::HeaderName]>,
}

/// What is logged of a request, once, at its end.
#[derive(Debug)]
pub struct Entry<'a> {
    /// The context.
    pub ctx: &'a Context,
    /// The request, as matched.
    pub request: &'a RequestHeader,
    /// The status that went to the client, if any did.
    pub status: Option<u16>,
    /// Bytes of the response body that went to the client.
    pub sent: u64,
    /// Bytes of the request body that came from the client.
    pub received: u64,
    /// From arrival to end, in nanoseconds.
    pub duration: u64,
    /// What Pingora says went wrong, if anything did.
    pub error: Option<&'a pingora::Error>,
}

/// Query parameters that carry secrets wherever they appear.
const SECRETS: [&str; 20] = [
    "access_token",
    "api_key",
    "api-key",
    "apikey",
    "auth",
    "client_secret",
    "code",
    "id_token",
    "jwt",
    "key",
    "passwd",
    "password",
    "refresh_token",
    "secret",
    "session",
    "sig",
    "signature",
    "token",
    "x-amz-security-token",
    "x-amz-signature",
];

/// Headers that carry secrets wherever they appear.
const SECRET_HEADERS: [&str; 5] = ["authorization", "proxy-authorization", "cookie", "set-cookie", "x-api-key"];

thread_local! {
    /// Room for a line, kept by each thread.
    static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Where the policies of a file expect credentials.
fn expected(config: &Config) -> Secrets {
    let mut secrets = Secrets::default();
    config.every_policy().for_each(|policy| policy.config.secrets(&mut secrets));
    secrets
}

impl AccessLog {
    /// `None` if there is to be no log. A file that cannot be opened is reported.
    pub fn compile(config: Option<&telemetry::AccessLog>, build: &mut Build<'_>) -> Option<Arc<Self>> {
        let config = config?;
        let writer = if build.probe {
            let folder = config.file.as_deref().and_then(std::path::Path::parent);
            if let Some(folder) = folder.filter(|folder| !folder.as_os_str().is_empty() && !folder.is_dir()) {
                let place = build.place(&steps!["telemetry", "access_log", "file"]);
                build.fail(Diagnostic::error(place, format!("there is no folder {}", folder.display())));
            }
            Arc::new(Writer::discard())
        } else {
            let path = config.file.as_deref();
            let key = path.map_or_else(|| "access_log:".into(), |path| format!("access_log:{}", path.display()));
            let dropped = build.metrics.log_dropped();
            let writer = build.keep_as(key, || Writer::start(path, dropped));
            if let Some(error) = writer.broken() {
                let place = build.place(&steps!["telemetry", "access_log", "file"]);
                build.fail(Diagnostic::error(place, format!("the access log cannot be opened: {error}")));
            }
            writer
        };
        let own = config.redact_query.iter().map(|name| name.to_ascii_lowercase());
        let expected = expected(build.config());
        let secrets = SECRETS.iter().map(|name| (*name).to_owned()).chain(own).chain(expected.arguments);
        let has_key = |name| expected.headers.contains(name);
        let headers = config.headers.iter();
        let headers = headers.filter(|name| !SECRET_HEADERS.contains(&name.as_str()) && !has_key(name));
        Some(Arc::new(Self {
            writer,
            secrets: secrets.map(Into::into).collect(),
            headers: headers.map(crate::config::types::HeaderName::to_http).collect(),
        }))
    }

    /// Logs a request.
    pub fn write(&self, entry: &Entry<'_>) {
        LINE.with_borrow_mut(|line| {
            line.clear();
            self.format(entry, line);
            self.writer.append(line);
        });
    }

    /// Writes the line of a connection that was handed on as it is.
    pub fn write_tunnel(&self, tunnel: &Tunnel<'_>) {
        LINE.with_borrow_mut(|line| {
            line.clear();
            tunnel.format(line);
            self.writer.append(line);
        });
    }

    /// Opens the file again: it may have been moved away.
    pub fn reopen(&self) {
        self.writer.reopen();
    }

    /// Writes out what is still in memory; for the end of the process.
    pub fn flush(&self) {
        self.writer.flush();
    }
}

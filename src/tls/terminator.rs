//! The handshake of a listener, and the files behind it.
//!
//! What a client asks for is read first; then the rule for that name decides which configuration goes on with the handshake. Each rule has
//! tickets of its own: a session that was begun under one rule cannot be resumed under another, nor after authorities or revocation lists
//! have changed.

use std::{io, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use pingora::{protocols::Stream, time::timeout};
use rustls::{
    ServerConfig,
    server::{Acceptor, ClientHello},
    version,
};
use tokio_rustls::LazyConfigAcceptor;

use super::{
    acme,
    certificates::{Certificates, Resolver},
    client::{self, Rules},
    files::{Loaded, Stamp},
    reads::Below,
    state::CertificateState,
    stream::{Secured, Session},
};
use crate::{
    config::listener::TlsVersion,
    telemetry::{metrics::Metrics, tls_metrics::Handshake},
};

/// Terminates TLS for a listener.
#[derive(Debug)]
pub struct Terminator {
    resolver: Arc<Resolver>,
    live: ArcSwap<Live>,
    watched: Mutex<Watched>,
    metrics: Arc<Metrics>,
}

/// What handshakes go by.
#[derive(Debug)]
struct Live {
    rules: Arc<Rules>,
    /// One for each rule; the last one is for names without a rule.
    configs: Box<[Arc<ServerConfig>]>,
    handshake_timeout: Duration,
}

#[derive(Debug)]
struct Watched {
    /// What is served.
    loaded: Arc<Loaded>,
    /// What the files looked like a moment ago: they are read once they stay the same, because a pair is written one after the other.
    seen: Vec<Stamp>,
}

impl Watched {
    fn new(loaded: Arc<Loaded>) -> Self {
        Self { seen: loaded.stamps.clone(), loaded }
    }
}

impl Terminator {
    /// Serves what was read.
    pub fn new(loaded: Loaded, metrics: Arc<Metrics>) -> Result<Arc<Self>, rustls::Error> {
        let resolver = Resolver::new(Certificates::new(&loaded.pairs));
        let live = live(&loaded, &resolver)?;
        let watched = Watched::new(Arc::new(loaded));
        Ok(Arc::new(Self { resolver, live: ArcSwap::from_pointee(live), watched: Mutex::new(watched), metrics }))
    }

    /// Serves this from now on. What did not change keeps its tickets.
    pub fn swap(&self, loaded: Loaded) -> Result<(), rustls::Error> {
        let before = Arc::clone(&self.watched.lock().loaded);
        let live = if loaded.shakes_hands_as(&before) {
            let old = self.live.load();
            Live {
                rules: Arc::clone(&old.rules),
                configs: old.configs.clone(),
                handshake_timeout: loaded.config.handshake_timeout.0,
            }
        } else {
            live(&loaded, &self.resolver)?
        };
        self.resolver.swap(Certificates::new(&loaded.pairs));
        self.live.store(Arc::new(live));
        *self.watched.lock() = Watched::new(Arc::new(loaded));
        Ok(())
    }

    /// Reads the files again if they have changed and stay the same now; returns what is wrong with them, and what is doubtful at this time
    /// in seconds since 1970. What is not wrong is used from now on; of the rest, what was there before.
    pub fn refresh(&self, now: u64) -> Option<Refreshed> {
        let before = {
            let mut watched = self.watched.lock();
            let stamps = watched.loaded.stamps_now();
            let settled = watched.seen == stamps;
            watched.seen.clone_from(&stamps);
            if !settled || watched.loaded.stamps == stamps {
                return None;
            }
            Arc::clone(&watched.loaded)
        };
        let loaded = before.again();
        let mut errors: Vec<String> = loaded.errors().map(ToOwned::to_owned).collect();
        let warnings = loaded.warnings(now);
        if let Err(error) = self.swap(loaded) {
            errors.push(error.to_string());
        }
        Some(Refreshed { errors, warnings })
    }

    /// How it stands with what comes from files.
    pub fn states(&self, now: u64) -> Vec<CertificateState> {
        let loaded = Arc::clone(&self.watched.lock().loaded);
        loaded.states(now)
    }

    /// What terminates TLS within QUIC: TLS 1.3 for this protocol, with the same certificates. Without client certificates: the name is not
    /// known when the configuration is chosen.
    pub fn quic(&self, alpn: &[u8]) -> Result<ServerConfig, rustls::Error> {
        let resolver: Arc<dyn rustls::server::ResolvesServerCert> = Arc::<Resolver>::clone(&self.resolver);
        let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&version::TLS13])?
            .with_no_client_auth()
            .with_cert_resolver(resolver);
        config.alpn_protocols = vec![alpn.to_vec()];
        Ok(config)
    }

    /// Shows what an authority issues as well.
    pub fn issue(&self, acme: acme::Names) {
        self.resolver.issue(acme);
    }

    /// Shakes hands, at most for so long as the listener allows, or `at_most`. A client that cannot is logged and counted.
    pub async fn accept(&self, stream: Stream, at_most: Duration) -> Option<(Stream, Session)> {
        let live = self.live.load_full();
        let time = live.handshake_timeout.min(at_most);
        let outcome = timeout(time, Box::pin(live.handshake(stream, &self.resolver))).await;
        let outcome = outcome.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        self.metrics.tls.handshake(match &outcome {
            Ok(_) => Handshake::Done,
            Err(error) => reason(error),
        });
        match outcome {
            Ok((stream, session)) => Some((stream, session)),
            Err(error) => {
                log::debug!("a TLS handshake failed: {error}");
                None
            }
        }
    }
}

/// What came of reading files again.
#[derive(Debug)]
pub struct Refreshed {
    /// Why some of them are not used.
    pub errors: Vec<String>,
    /// What works, but not as somebody may think.
    pub warnings: Vec<String>,
}

impl Live {
    async fn handshake(&self, stream: Stream, resolver: &Resolver) -> io::Result<(Stream, Session)> {
        let start = LazyConfigAcceptor::new(Acceptor::default(), Below::new(stream)).await?;
        if let Some(name) = acme::asked_for(&start.client_hello())
            && let Some(certificate) = resolver.acme().challenge(&name).await
        {
            log::info!("acme: the authority looks at the certificate of {name}");
            acme::answer(start, certificate).await?;
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        let rule = self.rule(&start.client_hello());
        let config = self.configs.get(rule.unwrap_or(self.configs.len() - 1));
        let config = config.ok_or(io::ErrorKind::InvalidInput)?;
        let tls = start.into_stream(Arc::clone(config)).await?;
        let session = Session::new(&tls, Arc::clone(&self.rules), rule);
        let stream: Stream = Box::new(Secured::new(tls, &session));
        Ok((stream, session))
    }

    fn rule(&self, hello: &ClientHello<'_>) -> Option<usize> {
        if self.rules.is_empty() {
            return None;
        }
        let name = hello.server_name().map(|name| name.trim_end_matches('.').to_ascii_lowercase());
        self.rules.find(name.as_deref()).copied()
    }
}

fn reason(error: &io::Error) -> Handshake {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::NoCertificatesPresented | rustls::Error::InvalidCertificate(_)) => Handshake::Certificate,
        Some(_) => Handshake::Protocol,
        None if error.kind() == io::ErrorKind::TimedOut => Handshake::TimedOut,
        None => Handshake::Closed,
    }
}

fn live(loaded: &Loaded, resolver: &Arc<Resolver>) -> Result<Live, rustls::Error> {
    let config = &loaded.config;
    let versions: &[_] = match config.min_version {
        TlsVersion::Tls12 => &[&version::TLS13, &version::TLS12],
        TlsVersion::Tls13 => &[&version::TLS13],
    };
    let make = |verifier| {
        let builder = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(versions)?;
        let builder = match verifier {
            Some(verifier) => builder.with_client_cert_verifier(verifier),
            None => builder.with_no_client_auth(),
        };
        let resolver: Arc<dyn rustls::server::ResolvesServerCert> = Arc::<Resolver>::clone(resolver);
        let mut config = builder.with_cert_resolver(resolver);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config.ticketer = rustls::crypto::ring::Ticketer::new()?;
        Ok(Arc::new(config))
    };
    let verifiers = loaded.rules.iter().map(|rule| Some(Arc::clone(&rule.value.verifier)));
    Ok(Live {
        rules: Arc::new(client::rules(&config.client_certificates)),
        configs: verifiers.chain([None]).map(make).collect::<Result<_, rustls::Error>>()?,
        handshake_timeout: config.handshake_timeout.0,
    })
}

//! The handshake of a listener, and the files behind it.
//!
//! What a client asks for is read first; then the rule for that name decides which configuration goes on with the handshake. Each rule has
//! tickets of its own: a session that was begun under one rule cannot be resumed under another, nor after authorities or revocation lists
//! have changed.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

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
    reads::Below,
    state::{CertificateState, Condition, Leaf, Source},
    stream::{Secured, Session},
};
use crate::{
    clock::Clock,
    config::{
        Step,
        listener::{self, TlsVersion},
        steps,
    },
    telemetry::{metrics::Metrics, tls_metrics::Handshake},
};

/// What cannot be used of a listener's `tls`: where it stands there, and why.
pub type TlsError = (Vec<Step>, String);

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
    /// What the configurations were made of, so that those that did not change keep their tickets.
    made_of: MadeOf,
    handshake_timeout: Duration,
}

/// The parts of a file, and of the files that it names, that decide how a handshake goes.
type MadeOf = (TlsVersion, Vec<(Vec<String>, bool, Vec<Vec<u8>>)>);

#[derive(Debug)]
struct Watched {
    config: listener::Tls,
    /// What the files looked like when they were read last.
    read: Vec<Stamp>,
    /// What they looked like a moment ago: they are read once they stay the same, because a pair is written one after the other.
    seen: Vec<Stamp>,
    /// Why what is on disk is not used.
    broken: Option<String>,
}

/// Tells a file from what it was before, without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp(Option<(SystemTime, u64, u64)>);

/// What has been read and can be served.
#[derive(Debug)]
pub struct Loaded {
    config: listener::Tls,
    certificates: Certificates,
    verifiers: Vec<Arc<dyn rustls::server::danger::ClientCertVerifier>>,
    made_of: MadeOf,
    stamps: Vec<Stamp>,
}

impl Loaded {
    /// Reads everything that a listener's `tls` names.
    pub fn read(config: &listener::Tls) -> Result<Self, TlsError> {
        let stamps = stamps(config);
        let certificates = Certificates::load(config).map_err(|(i, why)| (steps!["certificates", i].into(), why))?;
        let mut verifiers = Vec::with_capacity(config.client_certificates.len());
        for (i, rule) in config.client_certificates.iter().enumerate() {
            verifiers.push(client::verifier(rule).map_err(|why| (steps!["client_certificates", i].into(), why))?);
        }
        let made_of = made_of(config);
        Ok(Self { config: config.clone(), certificates, verifiers, made_of, stamps })
    }

    /// What works, but not as somebody may think.
    pub fn warnings(&self, clock: &Clock) -> Vec<String> {
        let now = clock.unix().as_secs();
        let lists = self.config.client_certificates.iter().flat_map(|rule| client::warnings(rule, now));
        let leaves = self.config.certificates.iter().zip(self.certificates.leaves());
        let dates = leaves.filter_map(|(file, leaf)| {
            let file = file.cert.display();
            if leaf.condition(now) == Condition::Expired {
                return Some(format!("the certificate in `{file}` has expired"));
            }
            (leaf.not_before > now).then(|| format!("the certificate in `{file}` is not valid yet"))
        });
        dates.chain(lists).collect()
    }
}

impl Terminator {
    /// Serves what was read.
    pub fn new(loaded: Loaded, metrics: Arc<Metrics>) -> Result<Arc<Self>, rustls::Error> {
        let Loaded { config, certificates, verifiers, made_of, stamps } = loaded;
        let resolver = Resolver::new(certificates);
        let live = live(&config, verifiers, made_of, &resolver)?;
        let watched = Watched { config, read: stamps.clone(), seen: stamps, broken: None };
        Ok(Arc::new(Self { resolver, live: ArcSwap::from_pointee(live), watched: Mutex::new(watched), metrics }))
    }

    /// Serves this from now on.
    pub fn swap(&self, loaded: Loaded) -> Result<(), rustls::Error> {
        let Loaded { config, certificates, verifiers, made_of, stamps } = loaded;
        let old = self.live.load();
        let kept = old.made_of == made_of;
        let live = if kept {
            Live {
                rules: Arc::clone(&old.rules),
                configs: old.configs.clone(),
                made_of,
                handshake_timeout: config.handshake_timeout.0,
            }
        } else {
            live(&config, verifiers, made_of, &self.resolver)?
        };
        self.resolver.swap(certificates);
        self.live.store(Arc::new(live));
        *self.watched.lock() = Watched { config, read: stamps.clone(), seen: stamps, broken: None };
        Ok(())
    }

    /// Reads the files again if they have changed and stay the same now. Says what it did: `Ok` if they are used from now on, `Err` with
    /// the reason if the ones before stay.
    pub fn refresh(&self) -> Option<Result<(), String>> {
        let mut watched = self.watched.lock();
        let now = stamps(&watched.config);
        let settled = watched.seen == now;
        watched.seen.clone_from(&now);
        if !settled || watched.read == now {
            return None;
        }
        watched.read = now;
        let config = watched.config.clone();
        drop(watched);
        let outcome = Loaded::read(&config)
            .map_err(|(_, why)| why)
            .and_then(|loaded| self.swap(loaded).map_err(|error| error.to_string()));
        if let Err(why) = &outcome {
            self.watched.lock().broken = Some(why.clone());
        }
        Some(outcome)
    }

    /// How it stands with the certificates from files; with an error for all of them if what is on disk now cannot be used.
    pub fn states(&self, now: u64) -> Vec<CertificateState> {
        let error = self.watched.lock().broken.clone();
        let leaves = self.resolver.certificates();
        let state = |leaf: &Leaf| CertificateState {
            names: leaf.names.clone(),
            source: Source::File,
            issuer: Some(leaf.issuer.clone()),
            not_after: Some(leaf.not_after),
            state: if error.is_some() { Condition::Failed } else { leaf.condition(now) },
            error: error.clone(),
            next_try: None,
        };
        leaves.leaves().iter().map(state).collect()
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

fn live(
    config: &listener::Tls,
    verifiers: Vec<Arc<dyn rustls::server::danger::ClientCertVerifier>>,
    made_of: MadeOf,
    resolver: &Arc<Resolver>,
) -> Result<Live, rustls::Error> {
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
    let all = verifiers.into_iter().map(Some).chain([None]).map(make);
    Ok(Live {
        rules: Arc::new(client::rules(&config.client_certificates)),
        configs: all.collect::<Result<_, rustls::Error>>()?,
        made_of,
        handshake_timeout: config.handshake_timeout.0,
    })
}

fn made_of(config: &listener::Tls) -> MadeOf {
    let rules = config.client_certificates.iter().map(|rule| {
        let hosts = rule.hosts.iter().map(ToString::to_string).collect();
        let files = std::iter::once(&rule.ca).chain(&rule.crl);
        let contents = files.map(|path| fs::read(path).unwrap_or_default()).collect();
        (hosts, rule.mode == listener::ClientMode::Optional, contents)
    });
    (config.min_version, rules.collect())
}

/// All files that a listener's `tls` names.
fn files(config: &listener::Tls) -> impl Iterator<Item = &PathBuf> {
    let pairs = config.certificates.iter().flat_map(|one| [&one.cert, &one.key].into_iter().chain(&one.ocsp));
    pairs.chain(config.client_certificates.iter().flat_map(|rule| std::iter::once(&rule.ca).chain(&rule.crl)))
}

fn stamps(config: &listener::Tls) -> Vec<Stamp> {
    files(config).map(|path| stamp(path)).collect()
}

fn stamp(path: &Path) -> Stamp {
    use std::os::unix::fs::MetadataExt as _;
    let meta = fs::metadata(path).ok();
    Stamp(meta.and_then(|meta| Some((meta.modified().ok()?, meta.len(), meta.ino()))))
}

//! How QUIC is spoken: windows, keys, TLS.

use std::{sync::Arc, time::Duration};

use quinn::{
    EndpointConfig, IdleTimeout, ServerConfig, TransportConfig, ValidationTokenConfig, VarInt,
    crypto::rustls::QuicServerConfig,
};
use ring::{hkdf, hmac};

use super::ids::{Ids, Mark};
use crate::{config::http3::Http3Options, runtime::Seeds, tls::Terminator};

/// Control, encoder and decoder, and some that say nothing.
const UNI_STREAMS: u32 = 8;

/// Attempts to connect that are read and not looked at yet.
const MAX_INCOMING: usize = 1024;

/// What is kept of packets behind the first one of such an attempt: of one, and of all.
const INCOMING_BUFFER: (u64, u64) = (16 << 10, 4 << 20);

/// Keys that a process that takes over has as well: it can tell clients of the process before that their connection is
/// over, and knows the tokens that were given out.
pub(in crate::server) struct Crypto {
    reset: hmac::Key,
    token: hkdf::Prk,
}

impl Crypto {
    pub(in crate::server) fn new(seeds: &Seeds) -> Self {
        let secret: Vec<u8> = seeds.0.iter().flat_map(|seed| seed.to_le_bytes()).collect();
        let derive = |label: &[u8]| hkdf::Salt::new(hkdf::HKDF_SHA256, label).extract(&secret);
        let reset = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &secret), b"torana quic reset");
        Self { reset: hmac::Key::new(hmac::HMAC_SHA256, reset.as_ref()), token: derive(b"torana quic token") }
    }

    /// What concerns a socket.
    pub(super) fn endpoint(&self, own: Mark) -> EndpointConfig {
        let mut config = EndpointConfig::new(Arc::new(self.reset.clone()));
        config.cid_generator(move || Box::new(Ids(own)));
        config
    }

    /// What concerns connections.
    pub(super) fn server(
        &self,
        terminator: &Terminator,
        options: &Http3Options,
        idle: Duration,
    ) -> Result<ServerConfig, Box<dyn std::error::Error + Send + Sync>> {
        let tls = QuicServerConfig::try_from(terminator.quic(b"h3")?)?;
        let mut config = ServerConfig::new(Arc::new(tls), Arc::new(self.token.clone()));
        let mut tokens = ValidationTokenConfig::default();
        tokens.sent(0);
        config
            .transport_config(Arc::new(transport(options, idle)?))
            .validation_token_config(tokens)
            .max_incoming(MAX_INCOMING)
            .incoming_buffer_size(INCOMING_BUFFER.0)
            .incoming_buffer_size_total(INCOMING_BUFFER.1);
        Ok(config)
    }
}

fn transport(options: &Http3Options, idle: Duration) -> Result<TransportConfig, quinn::VarIntBoundsExceeded> {
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(options.max_concurrent_streams))
        .max_concurrent_uni_streams(VarInt::from_u32(UNI_STREAMS))
        .stream_receive_window(VarInt::from_u64(options.stream_window.0)?)
        .receive_window(VarInt::from_u64(options.connection_window.0)?)
        .send_window(options.connection_window.0)
        .max_idle_timeout(Some(IdleTimeout::try_from(idle)?))
        // Datagrams that belong to no stream: nobody would read them.
        .datagram_receive_buffer_size(None);
    Ok(transport)
}

impl std::fmt::Debug for Crypto {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Crypto").finish_non_exhaustive()
    }
}

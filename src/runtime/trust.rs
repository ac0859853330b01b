//! Whom a listener believes what they say of clients.

use crate::{
    config::listener::{ForwardedBy, Listener, Others},
    networks::Peers,
};

/// Whom a listener believes.
#[derive(Debug)]
pub struct Trust {
    /// Who may say for whom a connection is, with the PROXY protocol; `None` if nobody is asked.
    pub introductions: Option<Introductions>,
    /// Whose headers say for whom a request is.
    pub proxies: Option<Proxies>,
}

/// Who may begin a connection with a header of the PROXY protocol.
#[derive(Debug)]
pub struct Introductions {
    /// These.
    pub trusted: Peers,
    /// Whether they must.
    pub required: bool,
    /// What becomes of connections of all others.
    pub others: Others,
}

/// Proxies whose headers are believed.
#[derive(Debug)]
pub struct Proxies {
    /// These.
    pub trusted: Peers,
    /// The header that they write.
    pub by: ForwardedBy,
}

impl Trust {
    /// What a listener says.
    pub(super) fn compile(listener: &Listener) -> Self {
        Self {
            introductions: listener.proxy_protocol.as_ref().map(|proxy| Introductions {
                trusted: Peers::new(&proxy.trusted),
                required: proxy.required,
                others: proxy.others,
            }),
            proxies: listener
                .trusted_proxies
                .as_ref()
                .map(|proxies| Proxies { trusted: Peers::new(&proxies.addresses), by: proxies.header }),
        }
    }
}

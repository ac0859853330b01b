//! Whom a listener believes, and who can reach it.

use super::{
    super::{listener::Listener, steps},
    File,
};
use crate::networks::Peer;

impl File<'_> {
    pub(super) fn trust(&mut self, i: usize, listener: &Listener) {
        let on_unix = listener.address.ip().is_none();
        if listener.mode.is_some() && !on_unix {
            self.error(&steps!["listeners", i, "mode"], "`mode` is for Unix sockets");
        }
        if let Some(proxy) = &listener.proxy_protocol {
            self.peers(i, ["proxy_protocol", "trusted"], &proxy.trusted);
            if on_unix && !proxy.trusted.contains(&Peer::Unix) && !proxy.trusted.is_empty() {
                let way = steps!["listeners", i, "proxy_protocol", "trusted"];
                self.error(&way, "a peer on a Unix socket has no address: `unix` stands for it");
            }
        }
        if let Some(proxies) = &listener.trusted_proxies {
            self.peers(i, ["trusted_proxies", "addresses"], &proxies.addresses);
        }
    }

    fn peers(&mut self, i: usize, [section, key]: [&'static str; 2], peers: &[Peer]) {
        let at = steps!["listeners", i, section, key];
        if self.is_empty(&at) {
            self.error(&at, "whom to trust has to be said: at least one address or network, or `unix`");
        }
        let on_unix = self.config.listeners.get(i).is_some_and(|listener| listener.address.ip().is_none());
        for (j, peer) in peers.iter().enumerate() {
            let way = steps!["listeners", i, section, key, j];
            match peer {
                Peer::Unix if !on_unix => {
                    self.error(&way, "nobody comes to this listener over a Unix socket: its address is not one");
                }
                Peer::Network(network) if network.is_everything() => {
                    self.warning(&way, "everybody is trusted: any client can say that it is another one");
                }
                Peer::Unix | Peer::Network(_) => {}
            }
        }
    }
}

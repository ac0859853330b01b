//! Listeners and the admin listener.

use std::collections::HashMap;

use super::File;
use crate::config::{Diagnostic, Step, listener, steps, telemetry};

impl File<'_> {
    pub(super) fn listeners(&mut self) {
        let config = self.config;
        if self.is_empty(&steps!["listeners"]) {
            self.error(&steps!["listeners"], "at least one listener is needed");
        }
        let mut seen: HashMap<&listener::BindAddress, usize> = HashMap::new();
        for (i, one) in config.listeners.iter().enumerate() {
            let way = steps!["listeners", i, "address"];
            if one.address.ip().is_none_or(|ip| ip.port() != 0)
                && let Some(first) = seen.insert(&one.address, i)
            {
                let place = self.tree.locate(&way);
                let first = self.tree.locate(&steps!["listeners", first, "address"]);
                self.found.push(
                    Diagnostic::error(place, "two listeners have the same address").related(first, "the other one"),
                );
            }
            self.is_not_within_another(i, one);
            if one.tls.is_some() && one.h2c {
                let way = steps!["listeners", i, "h2c"];
                self.error(&way, "`h2c` is for listeners without `tls`; with `tls`, HTTP/2 is offered anyway");
            }
            if let Some(tls) = &one.tls {
                self.tls(i, tls);
            }
            self.passthrough(i, one);
            self.sizes(i, one);
            self.http2(i, &one.http2);
            self.http3(one, &steps!["listeners", i, "http3"]);
            for (key, time) in [
                ("idle_timeout", one.idle_timeout),
                ("header_timeout", one.header_timeout),
                ("body_timeout", one.body_timeout),
            ] {
                self.takes_time(&steps!["listeners", i, key], time);
            }
            self.trust(i, one);
        }
        self.admin(&seen);
    }

    fn http2(&mut self, listener: usize, one: &listener::Http2) {
        let at = |key| steps!["listeners", listener, "http2", key];
        if !(1..=100_000).contains(&one.max_concurrent_streams) {
            self.error(&at("max_concurrent_streams"), "`max_concurrent_streams` is from 1 to 100000");
        }
        // Clients begin with 65,535 bytes, and nothing can make that less for the whole connection.
        for (key, size) in [("stream_window", one.stream_window), ("connection_window", one.connection_window)] {
            if !((64 << 10)..=(1 << 30)).contains(&size.0) {
                self.error(&at(key), format!("`{key}` is from 64KiB to 1GiB"));
            }
        }
        if one.connection_window < one.stream_window {
            self.error(
                &at("connection_window"),
                "`connection_window` is for all streams, and at least as large as `stream_window`",
            );
        }
    }

    fn sizes(&mut self, i: usize, one: &listener::Listener) {
        if one.max_header_size.0 < 1024 || one.max_header_size.0 > 1_048_575 {
            let way = steps!["listeners", i, "max_header_size"];
            self.error(&way, "`max_header_size` is from 1KiB to 1023KiB");
        }
        if !(1..=256).contains(&one.max_headers) {
            self.error(&steps!["listeners", i, "max_headers"], "`max_headers` is from 1 to 256");
        }
        if one.max_request_line.0 < 64 || one.max_request_line.0 > 1_048_575 {
            let way = steps!["listeners", i, "max_request_line"];
            self.error(&way, "`max_request_line` is from 64B to 1023KiB");
        }
    }

    fn http3(&mut self, listener: &listener::Listener, way: &[Step]) {
        let Some(options) = listener.http3.options() else { return };
        match &listener.tls {
            None => self.error(way, "`http3` is for listeners with `tls`: there is no HTTP/3 in plain text"),
            Some(tls) if !tls.client_certificates.is_empty() => {
                self.error(
                    way,
                    "`http3` asks nobody for a certificate: a listener with `client_certificates` cannot have it",
                );
            }
            Some(_) => {}
        }
        if listener.address.ip().is_none() {
            self.error(way, "`http3` is for listeners on an IP address");
        }
        if listener.proxy_protocol.is_some() {
            self.error(way, "there is no PROXY protocol over HTTP/3: a listener with `proxy_protocol` cannot have it");
        }
        let windows = [("stream_window", options.stream_window.0), ("connection_window", options.connection_window.0)];
        for (key, window) in windows {
            if !(16 << 10..=1 << 30).contains(&window) {
                self.error(&[way, &steps![key]].concat(), format!("`{key}` is from 16KiB to 1GiB"));
            }
        }
        for (key, number) in
            [("max_concurrent_streams", options.max_concurrent_streams), ("max_handshakes", options.max_handshakes)]
        {
            if !(1..=100_000).contains(&number) {
                self.error(&[way, &steps![key]].concat(), format!("`{key}` is from 1 to 100,000"));
            }
        }
    }

    fn admin(&mut self, listeners: &HashMap<&listener::BindAddress, usize>) {
        let Some(telemetry::Admin { address, hosts: _, changes: _ }) = &self.config.admin else {
            return;
        };
        let way = steps!["admin", "address"];
        if listeners.contains_key(address) {
            self.error(&way, "a listener has this address already");
        }
        if address.ip().is_some_and(|address| !address.ip().is_loopback()) {
            self.warning(
                &way,
                "the admin listener has no authentication: it should not be reachable from other machines",
            );
        }
    }

    /// A socket for every address of a port leaves none for a single one.
    fn is_not_within_another(&mut self, i: usize, one: &listener::Listener) {
        let Some(ip) = one.address.ip().filter(|ip| !ip.ip().is_unspecified() && ip.port() != 0) else { return };
        let config = self.config;
        let every = config.listeners.iter().position(|other| {
            let other = other.address.ip();
            other.is_some_and(|other| {
                other.ip().is_unspecified() && other.is_ipv4() == ip.is_ipv4() && other.port() == ip.port()
            })
        });
        if let Some(every) = every {
            let place = self.tree.locate(&steps!["listeners", i, "address"]);
            let every = self.tree.locate(&steps!["listeners", every, "address"]);
            self.found.push(
                Diagnostic::error(place, "another listener has this port on every address")
                    .related(every, "the other one"),
            );
        }
    }

    fn passthrough(&mut self, listener: usize, one: &listener::Listener) {
        let mut seen = HashMap::new();
        for (i, rule) in one.passthrough.iter().enumerate() {
            let way = steps!["listeners", listener, "passthrough", i];
            self.upstream_exists(&rule.upstream, &[&way[..], &steps!["upstream"]].concat());
            self.takes_time(&[&way[..], &steps!["idle_timeout"]].concat(), rule.idle_timeout);
            if rule.hosts.is_empty() && (one.tls.is_some() || one.h2c) {
                self.error(&way, "it takes every connection, so nothing is left for `tls` or `h2c`: give it `hosts`");
            }
            if self.config.upstreams.get(&rule.upstream).is_some_and(|upstream| upstream.tls.is_some()) {
                let message = "what is handed on as it is cannot be encrypted: this upstream has `tls`";
                self.error(&[&way[..], &steps!["upstream"]].concat(), message);
            }
            let every = rule.hosts.is_empty().then(|| (way.to_vec(), String::new()));
            let named = rule.hosts.iter().enumerate();
            let named = named.map(|(j, host)| ([&way[..], &steps!["hosts", j]].concat(), host.to_string()));
            self.only_once(every.into_iter().chain(named), &mut seen);
        }
    }

    /// Reports names that were there already.
    fn only_once(&mut self, names: impl Iterator<Item = (Vec<Step>, String)>, seen: &mut HashMap<String, Vec<Step>>) {
        for (way, name) in names {
            if let Some(first) = seen.insert(name, way.clone()) {
                let (place, first) = (self.tree.locate(&way), self.tree.locate(&first));
                let message = "another rule is for the same name";
                self.found.push(Diagnostic::error(place, message).related(first, "the other one"));
            }
        }
    }

    fn tls(&mut self, listener: usize, tls: &listener::Tls) {
        let way = steps!["listeners", listener, "tls"];
        let is_empty = |key| self.is_empty(&[&way[..], &steps![key]].concat());
        if is_empty("certificates") && is_empty("acme") {
            self.error(&way, "at least one certificate is needed");
        }
        self.takes_time(&[&way[..], &steps!["handshake_timeout"]].concat(), tls.handshake_timeout);
        let mut seen = HashMap::new();
        for (i, rule) in tls.client_certificates.iter().enumerate() {
            let rule_way = [&way[..], &steps!["client_certificates", i]].concat();
            let every = rule.hosts.is_empty().then(|| (rule_way.clone(), String::new()));
            let named = rule
                .hosts
                .iter()
                .enumerate()
                .map(|(j, host)| ([&rule_way[..], &steps!["hosts", j]].concat(), host.to_string()));
            self.only_once(every.into_iter().chain(named), &mut seen);
        }
    }
}

//! Certificates by ACME: what is asked for must be something that an authority can issue, and that it can find out about.

use std::collections::HashMap;

use super::{File, Step};
use crate::config::{
    Diagnostic,
    acme::{Acme, AcmeCertificate, Challenge, Domain},
    steps,
};

/// More names than authorities put into one certificate.
const MAX_DOMAINS: usize = 100;

pub(super) fn check(file: &mut File<'_>) {
    let listeners = &file.config.listeners;
    let mut asked = false;
    for (i, listener) in listeners.iter().enumerate() {
        let Some(tls) = &listener.tls else { continue };
        let way = steps!["listeners", i, "tls", "acme"];
        if tls.acme.is_empty() {
            continue;
        }
        asked = true;
        if file.config.acme.is_none() {
            file.error(
                &way,
                "who issues them? The section `acme` is missing: `acme: { terms_agreed: true }` is Let's Encrypt",
            );
        }
        domains(file, &way, &tls.acme);
    }
    if let Some(acme) = &file.config.acme {
        section(file, acme);
        if asked {
            reachable(file, acme);
        } else {
            file.warning(&steps!["acme"], "no listener asks for a certificate: `tls: { acme: [{ domains: [...] }] }`");
        }
    }
}

fn section(file: &mut File<'_>, acme: &Acme) {
    if !acme.terms_agreed {
        file.error(
            &steps!["acme"],
            "no authority issues certificates to those who do not agree to its terms: read them, and write `terms_agreed: true`",
        );
    }
    if acme.renew_before.is_some_and(|before| before.0 < std::time::Duration::from_secs(1)) {
        file.error(&steps!["acme", "renew_before"], "at its end it is too late: `renew_before` is at least 1s");
    }
    if acme.retry.0 < std::time::Duration::from_secs(1) {
        file.error(&steps!["acme", "retry"], "an authority is not asked all the time: `retry` is at least 1s");
    }
    if let Some(account) = &acme.external_account {
        if account.key_id.is_empty() {
            file.error(&steps!["acme", "external_account", "key_id"], "the authority calls the account something");
        }
        if account.key().is_empty() {
            file.error(&steps!["acme", "external_account", "mac_key"], "this is not a key in base64url");
        }
    }
}

fn domains(file: &mut File<'_>, way: &[Step], certificates: &[AcmeCertificate]) {
    let mut seen: HashMap<&Domain, Vec<Step>> = HashMap::new();
    for (i, certificate) in certificates.iter().enumerate() {
        let list = [way, &steps![i, "domains"]].concat();
        if file.is_empty(&list) {
            file.error(&list, "at least one domain is needed");
        }
        if certificate.domains.len() > MAX_DOMAINS {
            file.error(&list, format!("at most {MAX_DOMAINS} domains fit into one certificate"));
        }
        for (j, domain) in certificate.domains.iter().enumerate() {
            let here = [&*list, &steps![j]].concat();
            if let Some(first) = seen.insert(domain, here.clone()) {
                let (place, first) = (file.tree.locate(&here), file.tree.locate(&first));
                let twice = Diagnostic::error(place, "this domain has a certificate already");
                file.found.push(twice.related(first, "here"));
            }
        }
    }
}

/// Whether the authority can see what it looks for. A machine before this one may pass on the ports.
fn reachable(file: &mut File<'_>, acme: &Acme) {
    let listeners = &file.config.listeners;
    let (port, secure, name) = match acme.challenge {
        Challenge::Http01 => (80, false, "http_01"),
        Challenge::TlsAlpn01 => (443, true, "tls_alpn_01"),
    };
    let fits = |port: u16| {
        listeners.iter().any(|one| one.tls.is_some() == secure && one.address.ip().is_some_and(|ip| ip.port() == port))
    };
    if !fits(port) {
        let (kind, other) = if secure { ("with TLS", "443") } else { ("without TLS", "80") };
        file.warning(
            &steps!["acme"],
            format!(
                "`{name}` is asked for on port {port}, where there is no listener {kind}: something before the gateway has to pass on port {other}"
            ),
        );
    }
}

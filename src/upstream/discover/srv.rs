//! SRV records ([RFC 2782](https://www.rfc-editor.org/rfc/rfc2782)): name servers say port, priority and weight, and the addresses of the names.

use std::{collections::BTreeSet, sync::Arc};

use super::{Found, Member};
use crate::{
    config::{Dns, endpoint::Target},
    runtime::Ready,
    upstream::resolve::lookup::{self, Found as Answer, Service},
};

#[expect(clippy::infinite_loop, reason = "ends by being dropped")]
pub(super) async fn run(found: Arc<Found>, name: String, dns: Dns, ready: Ready) {
    let mut ready = Some(ready);
    loop {
        let (answer, ttl) = match Box::pin(ask(&name, &dns)).await {
            Ok((members, ttl)) => (Ok(members), ttl),
            Err(why) => (Err(why), dns.min_ttl.0),
        };
        let pause = match found.take(answer) {
            Ok(()) => ttl.min(dns.max_ttl.0).max(dns.min_ttl.0),
            Err(pause) => pause,
        };
        drop(ready.take());
        tokio::time::sleep(pause).await;
    }
}

async fn ask(name: &str, dns: &Dns) -> Result<(Vec<Member>, std::time::Duration), String> {
    let (services, mut ttl) = lookup::services(name, dns).await?;
    let priorities: BTreeSet<u16> = services.iter().map(|service| service.priority).collect();
    let mut members = Vec::new();
    for service in &services {
        let answer = lookup::ask(&service.host, dns).await;
        ttl = ttl.min(answer.ttl);
        for addresses in [answer.v4, answer.v6] {
            match addresses {
                Answer::Some(addresses) => {
                    members.extend(addresses.into_iter().map(|ip| member(service, ip, &priorities)));
                }
                Answer::Nothing => {}
                // Half of an answer would take endpoints away.
                Answer::Failed(why) => return Err(format!("{}: {why}", service.host)),
            }
        }
    }
    Ok((members, ttl))
}

fn member(service: &Service, ip: std::net::IpAddr, priorities: &BTreeSet<u16>) -> Member {
    let rank = priorities.iter().position(|priority| *priority == service.priority);
    Member {
        address: Target::Ip((ip, service.port).into()),
        // 0 is for those that should hardly be chosen.
        weight: service.weight.max(1),
        priority: rank.and_then(|rank| u8::try_from(rank).ok()).unwrap_or(u8::MAX),
        zone: None,
    }
}

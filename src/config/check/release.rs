//! `split` and `mirror` of routes: upstreams that are there, speak alike, and get something.

use std::collections::HashSet;

use super::File;
use crate::config::{
    release::{Canary, Split},
    route::Route,
    steps,
    types::{Name, Percent},
};

pub(super) fn check(file: &mut File<'_>, i: usize, route: &Route) {
    if let Some(split) = &route.split {
        versions(file, i, split);
        if let Some(canary) = &split.canary {
            self::canary(file, i, split, canary);
        }
    }
    if let Some(mirror) = &route.mirror {
        file.upstream_exists(&mirror.upstream, &steps!["routes", i, "mirror", "upstream"]);
        file.takes_time(&steps!["routes", i, "mirror", "timeout"], mirror.timeout);
        file.is_a_part(&steps!["routes", i, "mirror", "share"], mirror.share);
        if route.upstreams().any(|one| *one == mirror.upstream) {
            file.warning(&steps!["routes", i, "mirror", "upstream"], "it gets its own requests twice");
        }
        if route.redirect.is_some() {
            file.error(&steps!["routes", i, "mirror"], "a redirect sends nothing that could be copied");
        }
    }
}

fn versions(file: &mut File<'_>, i: usize, split: &Split) {
    let way = steps!["routes", i, "split", "to"];
    if split.to.len() < 2 {
        file.error(&way, "with one upstream there is nothing to share: name it in `upstream`");
    }
    let mut seen = HashSet::new();
    let mut protocols = HashSet::new();
    for (at, version) in split.to.iter().enumerate() {
        let way = steps!["routes", i, "split", "to", at, "upstream"];
        file.upstream_exists(&version.upstream, &way);
        if !seen.insert(&version.upstream) {
            file.error(&way, "this upstream is there already; `weight` gives it a larger share");
        }
        for (at_name, consumer) in version.when.consumers.iter().enumerate() {
            if !file.config.consumers.all.contains_key(consumer) {
                let way = steps!["routes", i, "split", "to", at, "when", "consumers", at_name];
                file.error(&way, format!("no consumer is named `{consumer}`"));
            }
        }
        if let Some(upstream) = file.config.upstreams.get(&version.upstream) {
            let is_first = protocols.is_empty();
            if protocols.insert(format!("{:?}", upstream.protocol)) && !is_first {
                file.error(&way, "the upstreams of a split speak the same `protocol`");
            }
        }
    }
    let is_canary = |name: &Name| split.canary.as_ref().is_some_and(|canary| canary.upstream == *name);
    if !split.to.is_empty() && !split.to.iter().any(|version| version.weight > 0 && !is_canary(&version.upstream)) {
        file.error(&way, "at least one upstream, besides the canary, needs a `weight` above 0");
    }
}

fn canary(file: &mut File<'_>, i: usize, split: &Split, canary: &Canary) {
    let at = |key: &str| steps!["routes", i, "split", "canary", key];
    if !split.to.iter().any(|version| version.upstream == canary.upstream) {
        file.error(&at("upstream"), "the canary is one of the upstreams in `to`");
    }
    for (step, percent) in canary.ramp.iter().enumerate() {
        let before = step.checked_sub(1).and_then(|step| canary.ramp.get(step));
        let way = steps!["routes", i, "split", "canary", "ramp", step];
        if *percent == Percent(0) || *percent > Percent(100) {
            file.error(&way, "a step is from 1% to 100%");
        } else if before.is_some_and(|before| before >= percent) {
            file.error(&way, "each step is larger than the one before");
        }
    }
    if file.is_empty(&at("ramp")) && canary.ramp.is_empty() {
        file.error(&at("ramp"), "at least one share is needed");
    }
    file.takes_time(&at("every"), canary.every);
    file.is_a_part(&at("errors"), canary.errors);
    if canary.latency < Percent(101) {
        file.error(&at("latency"), "it is above 100%: nobody takes always less than the others");
    }
}

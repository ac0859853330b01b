//! What `torana status` shows to people.

use std::time::Duration;

use serde_json::Value;

use crate::clock::spell;

/// The status of a process in a few lines. It may be of another version: what is not there is left out.
pub(super) fn show(status: &Value) -> String {
    let mut out = Vec::new();
    let mut line = |name: &str, value: String| out.push(format!("{name:<12} {value}\n"));
    line("torana", format!("{}, process {}", text(&status["version"]), status["pid"]));
    line("up", spell(status["uptime_seconds"].as_u64().unwrap_or(0)));
    let reload = &status["last_reload"];
    let ago = reload["at"].as_u64().map_or(0, |at| now().saturating_sub(at));
    let outcome = reload["error"].as_str().map_or_else(|| "worked".to_owned(), |why| format!("FAILED: {why}"));
    line("generation", format!("{}; last reload {} ago {outcome}", status["generation"], spell(ago)));
    if let Some(why) = status["fallback"].as_str() {
        line("ALARM", format!("serves the last configuration that worked, because {why}"));
    }
    let listeners: Vec<String> = status["listeners"].as_array().into_iter().flatten().map(text).collect();
    line("listens on", listeners.join(", "));
    line(
        "serves",
        format!(
            "{} requests ({} WebSockets) on {} connections",
            status["in_flight"], status["web_sockets"], status["connections"]
        ),
    );
    let number = |at| status.pointer(at).and_then(Value::as_u64).unwrap_or(0);
    if number("/cache/entries") > 0 {
        let kib = number("/cache/bytes").div_ceil(1 << 10);
        line("keeps", format!("{} answers of upstreams, in {kib} KiB", number("/cache/entries")));
    }
    if status["draining"] == true {
        line("stops", "takes no new connections".to_owned());
    }
    let before = &status["predecessor"];
    if before.is_object() {
        line(
            "drains",
            format!(
                "process {}: {} requests ({} WebSockets) on {} connections, at most {} more",
                before["pid"],
                before["requests"],
                before["web_sockets"],
                before["connections"],
                spell(before["seconds_left"].as_u64().unwrap_or(0))
            ),
        );
    }
    for certificate in status["certificates"].as_array().into_iter().flatten() {
        line("certificate", describe(certificate));
    }
    canaries(status, &mut line);
    upstreams(status, &mut line);
    out.concat()
}

/// A text as it is, anything else as JSON.
fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned)
}

fn canaries(status: &Value, line: &mut impl FnMut(&str, String)) {
    for route in status["routes"].as_array().into_iter().flatten().filter(|route| route["canary"].is_object()) {
        let canary = &route["canary"];
        let phase = match canary["phase"].as_str() {
            Some("rolled_back") => {
                let why = canary["why"].as_str().unwrap_or("it did worse");
                format!("WENT BACK: {why}; another `attempt` begins anew")
            }
            Some("done") => "done".to_owned(),
            _ => format!("step {} of {}", canary["step"], canary["steps"]),
        };
        line(
            "canary",
            format!("{}: {}% to {}, {phase}", text(&route["name"]), canary["percent"], text(&canary["upstream"])),
        );
    }
}

fn upstreams(status: &Value, line: &mut impl FnMut(&str, String)) {
    for source in status["upstreams"]
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|one| one["sources"].as_array().into_iter().flatten())
    {
        if let Some(why) = source["error"].as_str() {
            let known = &source["endpoints"];
            line(
                "discovery",
                format!("{}: FAILING, {known} known endpoints stay in use: {why}", text(&source["source"])),
            );
        }
    }
    for upstream in status["upstreams"].as_array().into_iter().flatten() {
        let endpoints: Vec<&Value> = upstream["endpoints"].as_array().into_iter().flatten().collect();
        let trouble: Vec<String> = endpoints.iter().filter_map(|one| trouble(one)).collect();
        let well = endpoints.len() - trouble.len();
        let tail = if trouble.is_empty() { String::new() } else { format!("; not {}", trouble.join(", ")) };
        let panic = if upstream["panic"] == true { "; PANIC: too few, so all are used" } else { "" };
        let circuit = match upstream["circuit"].as_str() {
            Some("open") => "; CIRCUIT OPEN: none are asked",
            Some("half_open") => "; circuit half open: some requests are let through",
            _ => "",
        };
        let name = text(&upstream["name"]);
        line("upstream", format!("{name}: {well} of {} endpoints can be used{tail}{panic}{circuit}", endpoints.len()));
    }
}

/// Why an endpoint gets no requests, if it does not.
fn trouble(endpoint: &Value) -> Option<String> {
    let why = match endpoint["standing"].as_str() {
        Some(standing @ ("draining" | "disabled")) => {
            let address = endpoint["address"].as_str().unwrap_or_default();
            return Some(format!("{address} ({standing}, {} in flight)", endpoint["in_flight"].as_u64().unwrap_or(0)));
        }
        _ if endpoint["healthy"] == false => "unhealthy",
        _ if endpoint["ejected"] == true => "left out",
        _ => return None,
    };
    Some(format!("{} ({why})", endpoint["address"].as_str().unwrap_or_default()))
}

/// How it stands with a certificate.
fn describe(certificate: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let names: Vec<String> = certificate["names"].as_array().into_iter().flatten().map(text).collect();
    let validity = certificate["not_after"].as_u64().map_or_else(String::new, |end| {
        let by = text(&certificate["issuer"]);
        match end.checked_sub(now()).filter(|left| *left > 0) {
            Some(left) => format!(", for {} by {by}", spell(left)),
            None => format!(", since {} by {by}", spell(now().saturating_sub(end))),
        }
    });
    let next = certificate["next_try"].as_u64();
    let next = next.map_or_else(String::new, |at| format!("; next try in {}", spell(at.saturating_sub(now()))));
    let why = certificate["error"].as_str().map_or_else(String::new, |why| format!(": {why}"));
    format!("{}: {}{validity}{next}{why}", names.join(", "), text(&certificate["state"]))
}

fn now() -> u64 {
    std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or(Duration::ZERO).as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_shown() {
        let status = serde_json::json!({
            "version": "0.1.0", "pid": 7, "uptime_seconds": 5, "generation": 2,
            "last_reload": { "ok": false, "at": now(), "error": "torana.yaml: refused (1 error)" },
            "fallback": "torana.yaml: refused", "listeners": ["127.0.0.1:80"],
            "predecessor": { "pid": 6, "connections": 3, "requests": 2, "web_sockets": 1, "seconds_left": 61 },
            "certificates": [
                { "names": ["a.test", "b.test"], "state": "valid", "issuer": "Pebble", "not_after": now() + 90_061 },
                { "names": ["c.test"], "state": "failed", "error": "no such name", "next_try": now() + 61 }],
            "routes": [
                { "name": "r", "canary": { "upstream": "v2", "percent": 5, "phase": "running", "step": 2, "steps": 5 } },
                { "name": "s", "canary": { "upstream": "v3", "percent": 0, "phase": "rolled_back", "step": 1, "steps": 5 } }],
            "upstreams": [{ "name": "up", "circuit": "open", "endpoints": [
                { "address": "a:1", "healthy": true }, { "address": "b:2", "healthy": false },
                { "address": "c:3", "healthy": true, "ejected": true },
                { "address": "d:4", "healthy": true, "standing": "draining", "in_flight": 3 }] }],
        });
        let shown = show(&status);
        for part in [
            "0.1.0, process 7",
            "FAILED: torana.yaml: refused (1 error)",
            "ALARM",
            "process 6: 2 requests (1 WebSockets) on 3 connections, at most 1m 1s",
            "up: 1 of 4 endpoints can be used; not b:2 (unhealthy), c:3 (left out), d:4 (draining, 3 in flight)",
            "canary       r: 5% to v2, step 2 of 5",
            "canary       s: 0% to v3, WENT BACK: it did worse",
            "CIRCUIT OPEN: none are asked",
            "certificate  a.test, b.test: valid, for 1d 1h by Pebble",
            "certificate  c.test: failed; next try in 1m",
            "s: no such name",
        ] {
            assert!(shown.contains(part), "{part} in\n{shown}");
        }
    }
}

//! What `torana status` shows to people.

use std::time::Duration;

use serde_json::Value;

/// The status of a process in a few lines. It may be of another version: what is not there is left out.
pub(super) fn show(status: &Value) -> String {
    let mut out = Vec::new();
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
    let mut line = |name: &str, value: String| out.push(format!("{name:<12} {value}\n"));
    line("torana", format!("{}, process {}", text(&status["version"]), status["pid"]));
    line("up", spell(status["uptime_seconds"].as_u64().unwrap_or(0)));
    let reload = &status["last_reload"];
    let ago = reload["at"].as_u64().map_or(0, |at| now().saturating_sub(at));
    let outcome = reload["error"].as_str().map_or_else(|| "worked".to_owned(), |why| format!("FAILED: {why}"));
    line("generation", format!("{}, loaded {} ago: {outcome}", status["generation"], spell(ago)));
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
    for upstream in status["upstreams"].as_array().into_iter().flatten() {
        let endpoints: Vec<&Value> = upstream["endpoints"].as_array().into_iter().flatten().collect();
        let ill: Vec<String> =
            endpoints.iter().filter(|one| one["healthy"] == false).map(|one| text(&one["address"])).collect();
        let well = endpoints.len() - ill.len();
        let tail = if ill.is_empty() { String::new() } else { format!("; not {}", ill.join(", ")) };
        line("upstream", format!("{}: {well} of {} endpoints healthy{tail}", text(&upstream["name"]), endpoints.len()));
    }
    out.concat()
}

fn now() -> u64 {
    std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or(Duration::ZERO).as_secs()
}

/// A span of time in its two largest units.
fn spell(seconds: u64) -> String {
    let units = [("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)];
    let first = units.iter().position(|(_, length)| seconds >= *length).unwrap_or(3);
    let mut rest = seconds;
    let parts = units.iter().skip(first).take(2).map(|(unit, length)| {
        let count = rest / length;
        rest %= length;
        format!("{count}{unit}")
    });
    parts.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_spelt_in_two_units() {
        for (seconds, text) in [(0, "0s"), (59, "59s"), (61, "1m 1s"), (3600, "1h 0m"), (90_061, "1d 1h")] {
            assert_eq!(spell(seconds), text);
        }
    }

    #[test]
    fn what_is_wrong_is_shown() {
        let status = serde_json::json!({
            "version": "0.1.0", "pid": 7, "uptime_seconds": 5, "generation": 2,
            "last_reload": { "ok": false, "at": now(), "error": "torana.yaml: refused (1 error)" },
            "fallback": "torana.yaml: refused", "listeners": ["127.0.0.1:80"],
            "predecessor": { "pid": 6, "connections": 3, "requests": 2, "web_sockets": 1, "seconds_left": 61 },
            "upstreams": [{ "name": "up", "endpoints": [
                { "address": "a:1", "healthy": true }, { "address": "b:2", "healthy": false }] }],
        });
        let shown = show(&status);
        for part in [
            "0.1.0, process 7",
            "FAILED: torana.yaml: refused (1 error)",
            "ALARM",
            "process 6: 2 requests (1 WebSockets) on 3 connections, at most 1m 1s",
            "up: 1 of 2 endpoints healthy; not b:2",
        ] {
            assert!(shown.contains(part), "{part} in\n{shown}");
        }
    }
}

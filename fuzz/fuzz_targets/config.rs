//! No text is able to make the reader of configurations panic or run for long, and a report can always be shown.
#![no_main]

use std::{path::Path, sync::Arc};

use libfuzzer_sys::fuzz_target;
use torana::{
    clock::Clock,
    config::load_text,
    runtime::{Seeds, Services, Snapshot},
    telemetry::metrics::Metrics,
};

fuzz_target!(|text: &str| {
    // Nothing outside: a file may name others.
    if text.contains("${") || text.contains("ca:") || text.contains("jwks_file") {
        return;
    }
    match load_text(text, "fuzz.yaml", Path::new("/nowhere")) {
        Err(report) => {
            assert!(report.errors() > 0);
            assert!(!report.to_string().is_empty());
        }
        Ok((config, report)) => {
            assert_eq!(report.errors(), 0, "{report}");
            let services = Services {
                clock: Clock::default(),
                metrics: Arc::new(Metrics::new()),
                probe: true,
                seeds: Seeds::random(),
            };
            if let Err(found) = Snapshot::compile(&config, None, &services) {
                assert!(!config.report(found).to_string().is_empty());
            }
        }
    }
});

//! No text is able to make the reader of configurations panic or run for long, and a report can always be shown.
#![no_main]

use std::{path::Path, sync::LazyLock};

use libfuzzer_sys::fuzz_target;
use torana::{
    clock::Clock,
    config::load_text,
    runtime::{Seeds, Services, Snapshot},
};

/// Once: what `cache` keeps lives as long as the process.
static SERVICES: LazyLock<Services> = LazyLock::new(|| Services::new(Clock::default(), Seeds::random()).probing());

fuzz_target!(|text: &str| {
    // Nothing outside: a file may name others.
    if text.contains("${") || text.contains("ca:") || text.contains("jwks_file") || text.contains("files") {
        return;
    }
    match load_text(text, "fuzz.yaml", Path::new("/nowhere")) {
        Err(report) => {
            assert!(report.errors() > 0);
            assert!(!report.to_string().is_empty());
        }
        Ok((config, report)) => {
            assert_eq!(report.errors(), 0, "{report}");
            if let Err(found) = Snapshot::compile(&config, None, &SERVICES) {
                assert!(!config.report(found).to_string().is_empty());
            }
        }
    }
});

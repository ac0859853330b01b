//! What is matched is what is sent on: the normal form of a path is its own normal form, and goes nowhere but down.
#![no_main]

use libfuzzer_sys::fuzz_target;
use torana::route::{normalise_host, path::normalise};

fuzz_target!(|text: &str| {
    if let Ok(normal) = normalise(text) {
        assert!(normal.starts_with('/'));
        assert!(!normal.contains("//") && !normal.contains('\\') && !normal.contains(['?', '#', '\0']));
        assert!(!normal.split('/').any(|segment| segment == "." || segment == ".."), "{normal}");
        assert_eq!(normalise(&normal).as_deref(), Ok(&*normal));
    }
    if let Some(host) = normalise_host(text) {
        assert_eq!(normalise_host(&host).as_deref(), Some(&*host));
        assert!(!host.contains(['/', '@', ' ']));
    }
});

//! What is matched is what is sent on: the normal form of a path is its own normal form, and goes nowhere but down.
#![no_main]

use libfuzzer_sys::fuzz_target;
use torana::route::path::normalise;

fuzz_target!(|text: &str| {
    let Ok(normal) = normalise(text) else {
        return;
    };
    let path = &*normal.path;
    assert!(path.starts_with('/') && path.is_ascii());
    assert!(!path.contains("//") && !path.contains(['?', '#', '\\', '\0']));
    assert!(!path.split('/').any(|segment| segment == "." || segment == ".."), "{path}");
    // Nor does it leave its place for a server that takes escaped slashes for slashes, whatever a route lets through.
    let unescaped = path.replace("%2F", "/").replace("%5C", "/");
    if unescaped != path {
        assert!(!unescaped.split('/').any(|segment| segment == "." || segment == ".."), "{path}");
    }
    // Every escape is one, in capital digits.
    for (at, _) in path.match_indices('%') {
        assert!(
            path[at + 1..].bytes().take(2).filter(|digit| b"0123456789ABCDEF".contains(digit)).count() == 2,
            "{path}"
        );
    }
    let again = normalise(path).expect("a normal form");
    assert_eq!(&*again.path, path);
    // What a segment broke that `..` took away is reported of the request, and is not there any more.
    assert!(again.broken.without(normal.broken).is_empty(), "{path}");
});

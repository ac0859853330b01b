//! The rules of the source tree that a compiler does not know.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Every source file with its module and its text.
fn all() -> Vec<(PathBuf, String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let module = |path: &Path| {
        let first = path.strip_prefix(&root).unwrap().iter().next().unwrap().to_str().unwrap();
        first.trim_end_matches(".rs").to_owned()
    };
    files.into_iter().map(|path| (path.clone(), module(&path), fs::read_to_string(&path).unwrap())).collect()
}

/// The modules of the crate that a text names.
fn used(text: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (_, rest) in text.match_indices("crate::").map(|(at, found)| (at, &text[at + found.len()..])) {
        if let Some(group) = rest.strip_prefix('{') {
            let (mut depth, mut item) = (0, String::new());
            for character in group.chars() {
                match character {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => drop(names.insert(std::mem::take(&mut item))),
                    _ if depth == 0 => item.push(character),
                    _ => {}
                }
            }
            names.insert(item);
        } else {
            names.insert(rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect());
        }
    }
    names.iter().map(|name| name.trim().split("::").next().unwrap().to_owned()).collect()
}

#[test]
fn modules_use_each_other_in_one_direction() {
    let forbidden: [(&str, &[&str]); 8] = [
        ("config", &["admin", "cli", "proxy", "runtime", "server", "tls", "upstream"]),
        ("route", &["admin", "cli", "policy", "runtime", "server", "tls", "upstream"]),
        ("policy", &["admin", "cli", "server", "tls", "upstream"]),
        ("upstream", &["admin", "cli", "policy", "server", "tls"]),
        ("runtime", &["admin", "cli", "server"]),
        ("proxy", &["admin", "cli", "server", "tls"]),
        ("telemetry", &["admin", "cli", "server", "tls"]),
        ("admin", &["cli", "config", "proxy", "runtime", "server"]),
    ];
    let files = all();
    assert!(files.len() > 100, "{}", files.len());
    for (module, others) in forbidden {
        for (path, _, text) in files.iter().filter(|(_, name, _)| name == module) {
            // Unit tests may build a whole gateway.
            let text = text.split("#[cfg(test)]\nmod ").next().unwrap();
            let wrong: Vec<_> = used(text).into_iter().filter(|name| others.contains(&name.as_str())).collect();
            assert!(path.ends_with("tests.rs") || wrong.is_empty(), "{} uses {wrong:?}", path.display());
        }
    }
}

#[test]
fn no_file_is_longer_than_500_lines() {
    for (path, _, text) in all() {
        assert!(text.lines().count() <= 500, "{}", path.display());
    }
}

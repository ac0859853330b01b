//! The rules of the source tree that a compiler does not know.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use crate::support::torana;

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
    let forbidden: [(&str, &[&str]); 9] = [
        ("config", &["admin", "cli", "proxy", "runtime", "server", "tls", "upstream"]),
        ("route", &["admin", "cli", "policy", "runtime", "server", "tls", "upstream"]),
        ("policy", &["admin", "cli", "server", "upstream"]),
        ("upstream", &["admin", "cli", "policy", "server", "tls"]),
        ("runtime", &["admin", "cli", "server"]),
        ("proxy", &["admin", "cli", "server"]),
        ("tls", &["admin", "cli", "policy", "proxy", "route", "server", "upstream"]),
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

#[test]
fn every_refusal_is_explained_to_operators() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manual = fs::read_to_string(root.join("docs/operations.md")).unwrap();
    let source = fs::read_to_string(root.join("src/reject.rs")).unwrap();
    let codes: Vec<&str> = source.lines().filter_map(|line| line.split_once("=> \"")?.1.strip_suffix("\",")).collect();
    assert!(codes.len() >= 23, "{codes:?}");
    for code in codes {
        assert!(manual.contains(&format!("| `{code}` |")), "{code}");
        // What is not in this list is not counted.
        assert!(torana::reject::Reject::CODES.contains(&code), "{code}");
    }
}

#[test]
fn the_configuration_in_the_readme_is_accepted() {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let yaml = readme.split("```yaml\n").nth(1).unwrap().split("```").next().unwrap();
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("torana.yaml"), yaml).unwrap();
    let check = |file: &str| {
        let output = torana().args(["check", "-c", file]).current_dir(folder.path()).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(
        check("torana.yaml"),
        (Some(0), "torana.yaml: ok (1 listener, 1 route, 1 upstream, 0 consumers)\n".into())
    );
    // What it shows of a refusal is what is said.
    let wrong = yaml.replace("  - address: 0.0.0.0:8080\n", "  - address: 0.0.0.0:8080\n    idle_timeot: 5s\n");
    fs::write(folder.path().join("torana.yaml"), wrong).unwrap();
    let (code, said) = check("torana.yaml");
    let shown = readme.split("$ torana check -c torana.yaml\n").nth(1).unwrap().split("```").next().unwrap();
    assert_eq!((code, said.as_str()), (Some(2), shown));
}

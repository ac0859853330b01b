//! The files that `consumers.files` names. Each is a mapping of names to consumers, and is checked like the section itself;
//! what is wrong is reported with its file and line.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use super::{
    Diagnostic, Report, Severity,
    check::{
        Source,
        consumers::{Seen, check},
    },
    consumer::{Consumer, Consumers, Pattern},
    load::{parse, read_all},
    pieces, steps, substitute,
    tree::{Node, Value},
    types::Name,
};

/// Where references are looked up: from which folder, and among which variables.
type Context<'a> = (&'a Path, &'a dyn Fn(&str) -> Option<String>);

/// Checks the consumers of the file itself, and adds those of the other files. Returns what is to say about these.
pub(super) fn read(
    consumers: &mut Consumers,
    tree: &Node,
    found: &mut Vec<Diagnostic>,
    context: Context<'_>,
) -> Vec<Report> {
    let mut seen = Seen::default();
    let section = tree.entry("consumers").map(|entry| &entry.node);
    if let Some(section) = section {
        check(&consumers.all, section, None, &mut seen, found);
    }
    let mut reports = Vec::new();
    for (i, pattern) in consumers.files.iter().enumerate() {
        let place = tree.locate(&steps!["consumers", "files", i]);
        match paths(pattern, context.0) {
            // A name without a pattern is meant: whoever put it there counts on it.
            Ok(paths) if paths.is_empty() && !pattern.0.contains(['*', '?', '[']) => {
                found.push(Diagnostic::error(place, "there is no such file"));
            }
            Ok(paths) if paths.is_empty() => {
                found.push(Diagnostic::warning(place, "there is no such file, so there are no consumers in it"));
            }
            Ok(paths) => {
                for (path, parsed) in paths.iter().zip(parse_all(&paths)) {
                    let (mut more, report) = read_one(path, parsed, &mut seen, context.1);
                    consumers.all.append(&mut more);
                    reports.extend(Some(report).filter(|report| !report.is_empty()));
                }
            }
            Err(why) => found.push(Diagnostic::error(place, why)),
        }
    }
    reports
}

/// The files of a pattern, in the order of their names; hidden ones only if it says so.
fn paths(pattern: &Pattern, base: &Path) -> Result<Vec<PathBuf>, String> {
    let whole = if Path::new(&pattern.0).is_absolute() {
        pattern.0.clone()
    } else {
        let base = glob::Pattern::escape(&base.to_string_lossy());
        Path::new(&base).join(&pattern.0).to_string_lossy().into_owned()
    };
    let options = glob::MatchOptions { require_literal_leading_dot: true, ..glob::MatchOptions::default() };
    let found = glob::glob_with(&whole, options).map_err(|error| error.msg.to_owned())?;
    found.map(|path| path.map_err(|error| error.to_string())).collect()
}

/// The folders in which such files are, up to where a name is not known; those that are there.
pub(super) fn folders(consumers: &Consumers, base: &Path) -> Vec<PathBuf> {
    let is_known = |part: &std::path::Component<'_>| !part.as_os_str().to_string_lossy().contains(['*', '?', '[']);
    let mut folders: Vec<PathBuf> = consumers
        .files
        .iter()
        .map(|pattern| base.join(&pattern.0))
        .filter_map(|path| path.parent().map(|folder| folder.components().take_while(is_known).collect()))
        .map(|folder: PathBuf| if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder })
        .filter(|folder| folder.is_dir())
        .collect();
    folders.sort();
    folders.dedup();
    folders
}

/// A file with the tree that is in it.
type Parsed = Result<(String, Node), Report>;

/// Reads files, on all CPUs: that takes most of the time of large ones.
fn parse_all(paths: &[PathBuf]) -> Vec<Parsed> {
    let texts: Vec<_> = paths.iter().map(|path| text(path)).collect();
    let good: Vec<&str> = texts.iter().flatten().map(String::as_str).collect();
    let mut trees = pieces::read_all(&good).into_iter();
    let parsed = paths.iter().zip(texts).map(|(path, text)| {
        let text = text?;
        let tree = match trees.next().flatten() {
            Some(tree) => tree,
            None => parse(&text, &path.display().to_string())?,
        };
        Ok((text, tree))
    });
    parsed.collect()
}

fn text(path: &Path) -> Result<String, Report> {
    let name = path.display().to_string();
    let bytes = fs::read(path).map_err(|error| Report::plain(&name, format!("the file cannot be read: {error}")))?;
    String::from_utf8(bytes).map_err(|_error| Report::plain(&name, "the file is not UTF-8"))
}

fn read_one(
    path: &Path,
    parsed: Parsed,
    seen: &mut Seen,
    env: &dyn Fn(&str) -> Option<String>,
) -> (BTreeMap<Name, Consumer>, Report) {
    let name = path.display().to_string();
    let (text, mut tree) = match parsed {
        Ok(parsed) => parsed,
        Err(report) => return (BTreeMap::new(), report),
    };
    let (mut found, mut unknown) = (Vec::new(), Vec::new());
    substitute::substitute(&mut tree, path.parent().unwrap_or_else(|| Path::new("")), env, &mut found);
    if let Some(entry) = tree.entry("consumers").filter(|entry| matches!(entry.node.value, Value::Map(_))) {
        let why = "in a file of its own, consumers stand at the top: take `consumers:` away";
        let found = vec![Diagnostic::error(entry.key_place, why)];
        return (BTreeMap::new(), Source { name, text, tree: tree.clone(), unknown }.report(found));
    }
    let consumers = read_all::<BTreeMap<Name, Consumer>>(&mut tree, &mut found, &mut unknown).unwrap_or_default();
    check(&consumers, &tree, Some(&name), seen, &mut found);
    if found.iter().any(|one| one.severity == Severity::Error) {
        found.retain(|one| one.severity == Severity::Error);
    }
    found.sort_by_key(|one| (one.place.line, one.place.column));
    let report = Source { name, text, tree, unknown }.report(found);
    (consumers, report)
}

//! From a file to a [`Validated`] configuration, or to everything that is wrong with it.

use std::{fs, path::Path};

use serde::Deserialize;

use super::{
    Config, Report, Severity, Validated,
    check::Source,
    check::check,
    consumer_files,
    diagnostic::{Diagnostic, closest},
    read::{Cause, Fault, Turn},
    redact, substitute,
    tree::{self, Node, Place, Value},
};

/// After so many errors the rest is not looked for.
const MAX_ERRORS: usize = 100;

/// Reads and checks a file. The report of a file that is accepted has warnings only.
pub fn load(path: &Path) -> Result<(Validated, Report), Report> {
    let name = path.display().to_string();
    let bytes = fs::read(path).map_err(|error| Report::plain(&name, format!("the file cannot be read: {error}")))?;
    let text = String::from_utf8(bytes).map_err(|_error| Report::plain(&name, "the file is not UTF-8"))?;
    let base = path.parent().unwrap_or_else(|| Path::new(""));
    load_text(&text, &name, base)
}

/// The same for a text; `name` stands in messages, relative paths start at `base`.
pub fn load_text(text: &str, name: &str, base: &Path) -> Result<(Validated, Report), Report> {
    load_with(text, name, base, &|variable| std::env::var(variable).ok())
}

fn load_with(
    text: &str,
    name: &str,
    base: &Path,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<(Validated, Report), Report> {
    let mut tree = parse(text, name)?;
    if matches!(tree.value, Value::Map(ref entries) if entries.is_empty()) {
        return Err(Report::plain(name, "the file is empty: `torana demo --print-config` shows one to begin with"));
    }
    let mut found = Vec::new();
    let mut unknown = Vec::new();
    substitute::substitute(&mut tree, base, env, &mut found);
    let mut config = read_all::<Config>(&mut tree, &mut found, &mut unknown);
    let mut more = Vec::new();
    if let Some(config) = &mut config {
        more = consumer_files::read(&mut config.consumers, &tree, &mut found, (base, env));
        check(config, &tree, &mut found);
    }
    let errors = more.iter().map(Report::errors).sum::<usize>();
    if errors > 0 || found.iter().any(|one| one.severity == Severity::Error) {
        // What seems odd may seem so because of an error.
        found.retain(|one| one.severity == Severity::Error);
        more.retain(|one| one.errors() > 0);
    }
    found.sort_by_key(|one| (one.place.line, one.place.column));
    let source = Source { name: name.to_owned(), text: text.to_owned(), tree, unknown };
    let report = Report { more, ..source.report(found) };
    match config {
        Some(config) if report.errors() == 0 => Ok((Validated::new(config, source), report)),
        _ => Err(report),
    }
}

/// The tree of a file, or what is wrong with it as YAML.
pub(super) fn parse(text: &str, name: &str) -> Result<Node, Report> {
    tree::read(text).map_err(|error| syntax_error(text, name, &error))
}

fn syntax_error(text: &str, name: &str, error: &serde_saphyr::Error) -> Report {
    let place = error.location().map_or_else(Place::default, |at| Place {
        line: usize::try_from(at.line()).unwrap_or(0),
        column: usize::try_from(at.column()).unwrap_or(0),
        width: 1,
    });
    let whole = error.without_snippet().to_string();
    // The place stands beside it already.
    let message = whole.split(" at line ").next().unwrap_or(&whole);
    let message = message.lines().next().unwrap_or(message).trim_end_matches(':');
    let message = match message.strip_prefix("duplicate mapping key: ").and_then(|rest| rest.split(", set ").next()) {
        Some(key) => format!("the key `{key}` is there twice"),
        None if message.contains("from_str_multiple") => "a file has one document: remove the second `---`".into(),
        None if message.contains("unknown anchor") => {
            "this is not valid YAML: a value that begins with `*` or `&` has to stand in quotes".into()
        }
        None => format!("this is not valid YAML: {message}"),
    };
    let found = vec![Diagnostic::error(place, message)];
    Report { file: name.to_owned(), lines: redact::unparsed(text), found, more: Vec::new() }
}

/// Reads the types; what is wrong is reported, dropped, and the rest read again, until nothing is wrong.
pub(super) fn read_all<T: for<'de> Deserialize<'de>>(
    tree: &mut Node,
    found: &mut Vec<Diagnostic>,
    unknown: &mut Vec<Place>,
) -> Option<T> {
    for _ in 0..MAX_ERRORS * 4 {
        let fault = match T::deserialize(&*tree) {
            Ok(config) => return Some(config),
            Err(fault) => fault,
        };
        // What a misspelt key holds is as secret as what the right one would; of others nothing is known.
        let name = fault.name.as_deref().unwrap_or_default();
        if fault.cause == Cause::UnknownKey && closest(name, fault.candidates.iter().copied()).is_none() {
            unknown.push(fault.place());
        }
        let way: Vec<Turn> = fault.way().collect();
        if !follows_from_dropped(find(tree, &way), &fault) {
            found.push(describe(&fault));
        }
        drop_at(tree, &way);
        let errors = found.iter().filter(|one| one.severity == Severity::Error);
        if way.is_empty() || errors.count() >= MAX_ERRORS {
            return None;
        }
    }
    None
}

fn describe(fault: &Fault) -> Diagnostic {
    let diagnostic = Diagnostic::error(fault.place(), fault.message.clone());
    match &fault.name {
        Some(name) => diagnostic.nearest(name, fault.candidates.iter().copied()),
        None => diagnostic,
    }
}

/// Whether the fault is there only because something below was dropped, which is reported already.
fn follows_from_dropped(node: &Node, fault: &Fault) -> bool {
    let dropped = match &node.value {
        Value::Map(entries) => {
            entries.iter().filter(|entry| entry.node.dropped).map(|entry| entry.key.as_str()).collect()
        }
        Value::List(items) if items.iter().any(|item| item.dropped) => vec![""],
        Value::List(_)
        | Value::Null
        | Value::Bool(_)
        | Value::Unsigned(_)
        | Value::Signed(_)
        | Value::Float(_)
        | Value::Text(_) => Vec::new(),
    };
    match fault.cause {
        Cause::MissingKey(field) => {
            dropped.iter().any(|key| strsim::damerau_levenshtein(key, field) <= field.len().div_ceil(3))
        }
        Cause::UnknownKey => false,
        Cause::Value => !dropped.is_empty(),
    }
}

/// The node at the end of the way, or as far as it goes.
fn find<'a>(tree: &'a Node, way: &[Turn]) -> &'a Node {
    way.iter().try_fold(tree, |here, Turn(index)| here.child(*index).ok_or(here)).unwrap_or_else(|last| last)
}

fn drop_at(node: &mut Node, way: &[Turn]) {
    if let Some((Turn(index), rest)) = way.split_first()
        && let Some(child) = node.child_mut(*index)
    {
        return drop_at(child, rest);
    }
    node.dropped = true;
}

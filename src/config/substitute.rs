//! Fills in `${env:NAME}` and `${file:PATH}`, anywhere in a string; `$${` stands for `${`.
//!
//! What is filled in is treated as secret: it appears in no error. A variable or file that is missing is an error. The
//! final newline of a file is left out; a relative path starts from the folder of the configuration file.

use std::{fs, path::Path};

use super::{
    diagnostic::Diagnostic,
    tree::{Node, Value},
};

/// A file that is larger than this is not a secret or certificate.
const MAX_FILE: u64 = 1 << 20;

/// Fills in every string of the tree; a string that cannot be is reported and dropped.
pub(crate) fn substitute(
    tree: &mut Node,
    base: &Path,
    env: &dyn Fn(&str) -> Option<String>,
    found: &mut Vec<Diagnostic>,
) {
    tree.walk_mut(&mut |node| {
        let Value::Text(text) = &node.value else {
            return;
        };
        if !text.contains("${") {
            return;
        }
        match fill(text, base, env) {
            Ok((text, filled)) => {
                node.value = Value::Text(text);
                node.secret |= filled;
            }
            Err(message) => {
                node.dropped = true;
                found.push(Diagnostic::error(node.place, message));
            }
        }
    });
}

/// The text with everything filled in, and whether there was anything.
fn fill(text: &str, base: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<(String, bool), String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut filled = false;
    while let Some((before, after)) = rest.split_once("${") {
        if let Some(before) = before.strip_suffix('$') {
            out.push_str(before);
            out.push_str("${");
            rest = after;
            continue;
        }
        out.push_str(before);
        let (reference, after) = after.split_once('}').ok_or("`${` without `}`; a literal `${` is written `$${`")?;
        out.push_str(&look_up(reference, base, env)?);
        filled = true;
        rest = after;
    }
    out.push_str(rest);
    Ok((out, filled))
}

fn look_up(reference: &str, base: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    match reference.split_once(':') {
        Some(("env", name)) => env(name).ok_or_else(|| format!("the environment variable `{name}` is not set")),
        Some(("file", path)) => {
            read(&base.join(path)).map_err(|error| format!("the file `{path}` cannot be read: {error}"))
        }
        _ => Err(format!(
            "`${{{reference}}}` is neither `${{env:NAME}}` nor `${{file:PATH}}`; a literal `${{` is written `$${{`"
        )),
    }
}

fn read(path: &Path) -> Result<String, String> {
    let meta = fs::metadata(path).map_err(|error| error.to_string())?;
    if !meta.is_file() {
        return Err("it is not a file".into());
    }
    if meta.len() > MAX_FILE {
        return Err("it is larger than 1 MiB".into());
    }
    let bytes = fs::read(path).map_err(|error| error.to_string())?;
    let mut text = String::from_utf8(bytes).map_err(|_error| "it is not UTF-8".to_owned())?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(text: &str) -> Result<(String, bool), String> {
        fill(text, Path::new("/nowhere"), &|name| (name == "A").then(|| "value".to_owned()))
    }

    #[test]
    fn references_are_filled_in_anywhere() {
        assert_eq!(filled("x-${env:A}-${env:A}"), Ok(("x-value-value".into(), true)));
        assert_eq!(filled("$${env:A} $5"), Ok(("${env:A} $5".into(), false)));
    }

    #[test]
    fn what_is_missing_is_an_error_that_names_it() {
        assert!(filled("${env:B}").unwrap_err().contains("`B`"));
        assert!(filled("${file:b}").unwrap_err().contains("`b`"));
        assert!(filled("${vault:b}").unwrap_err().contains("${vault:b}"));
        assert!(filled("${env:A").is_err());
    }
}

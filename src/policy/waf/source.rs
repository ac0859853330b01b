//! The files of rules: lines, quotes, `Include`.
//!
//! - A line that ends in a backslash goes on in the next one. A line that begins with `#` is a comment.
//! - Words stand between white space; `"..."` is one word, in which `\"` is a quote. Every other backslash stays, as it belongs to a pattern.
//! - `Include` and `IncludeOptional` take a path with wildcards; a path that is not absolute is looked for beside the file.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

/// One directive, as it stands in a file.
#[derive(Debug)]
pub(super) struct Directive {
    pub(super) name: String,
    pub(super) words: Vec<String>,
    pub(super) place: Spot,
}

/// Where a directive begins.
#[derive(Clone, Debug)]
pub(super) struct Spot {
    file: Arc<str>,
    line: usize,
}

impl fmt::Display for Spot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

impl Spot {
    /// A message about this place.
    pub(super) fn says(&self, what: impl fmt::Display) -> String {
        format!("{self}: {what}")
    }

    /// A file that is named in a rule is looked for beside it.
    pub(super) fn beside(&self, name: &str) -> PathBuf {
        Path::new(&*self.file).parent().map_or_else(|| PathBuf::from(name), |folder| folder.join(name))
    }
}

/// Files may include files this deep.
const MAX_DEPTH: usize = 8;

/// More than this is no set of rules, in bytes.
const MAX_FILE: u64 = 16 << 20;

/// Reads a file and all that it includes.
pub(super) fn file(path: &Path, into: &mut Vec<Directive>) -> Result<(), String> {
    include(path, into, 0)
}

fn include(path: &Path, into: &mut Vec<Directive>, depth: usize) -> Result<(), String> {
    let name = path.display();
    if depth > MAX_DEPTH {
        return Err(format!("{name}: files include each other more than {MAX_DEPTH} deep"));
    }
    let text = read(path)?;
    let mut found = Vec::new();
    lines(&text, &Arc::from(name.to_string()), &mut found)?;
    for directive in found {
        let optional = directive.name.eq_ignore_ascii_case("IncludeOptional");
        if !optional && !directive.name.eq_ignore_ascii_case("Include") {
            into.push(directive);
            continue;
        }
        let place = &directive.place;
        let [pattern] = directive.words.as_slice() else { return Err(place.says("an `Include` names one path")) };
        let pattern = place.beside(pattern);
        let paths = glob::glob(&pattern.to_string_lossy()).map_err(|error| place.says(error))?;
        let mut paths: Vec<PathBuf> = paths.collect::<Result<_, _>>().map_err(|error| place.says(error))?;
        paths.sort();
        if paths.is_empty() && !optional {
            return Err(place.says(format_args!("there is no file {}", pattern.display())));
        }
        for path in paths {
            include(&path, into, depth + 1)?;
        }
    }
    Ok(())
}

/// A file of rules, or of words for one.
pub(super) fn read(path: &Path) -> Result<String, String> {
    let fail = |error: &dyn fmt::Display| format!("{}: {error}", path.display());
    let size = std::fs::metadata(path).map_err(|error| fail(&error))?.len();
    if size > MAX_FILE {
        return Err(fail(&format_args!("a file of rules has at most {MAX_FILE} bytes")));
    }
    let bytes = std::fs::read(path).map_err(|error| fail(&error))?;
    String::from_utf8(bytes).map_err(|_error| fail(&"this is no UTF-8"))
}

/// The directives of a text.
pub(super) fn lines(text: &str, file: &Arc<str>, into: &mut Vec<Directive>) -> Result<(), String> {
    let mut lines = text.lines().enumerate();
    while let Some((at, line)) = lines.next() {
        let place = Spot { file: Arc::clone(file), line: at + 1 };
        let line = line.trim_start();
        if line.starts_with('#') || line.trim_end().is_empty() {
            continue;
        }
        let mut whole = String::new();
        let mut line = line.trim_end();
        while let Some(part) = line.strip_suffix('\\') {
            whole.push_str(part);
            line = lines.next().map(|(_, line)| line.trim()).unwrap_or_default();
        }
        whole.push_str(line);
        let mut words = words(&whole).map_err(|why| place.says(why))?.into_iter();
        if let Some(name) = words.next() {
            into.push(Directive { name, words: words.collect(), place });
        }
    }
    Ok(())
}

fn words(line: &str) -> Result<Vec<String>, &'static str> {
    let mut words = Vec::new();
    let mut rest = line.trim_start();
    while !rest.is_empty() {
        if let Some(inside) = rest.strip_prefix('"') {
            let (word, behind) = quoted(inside)?;
            words.push(word);
            rest = behind.trim_start();
        } else {
            let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
            let (word, behind) = rest.split_at_checked(end).unwrap_or((rest, ""));
            words.push(word.to_owned());
            rest = behind.trim_start();
        }
    }
    Ok(words)
}

fn quoted(inside: &str) -> Result<(String, &str), &'static str> {
    let mut word = String::new();
    let mut letters = inside.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Ok((word, inside.get(at + 1..).unwrap_or_default())),
            '\\' => match letters.next() {
                Some((_, '"')) => word.push('"'),
                Some((_, other)) => word.extend(['\\', other]),
                None => break,
            },
            other => word.push(other),
        }
    }
    Err("a quote is not closed")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<(String, Vec<String>, usize)>, String> {
        let mut found = Vec::new();
        lines(text, &Arc::from("a.conf"), &mut found)?;
        Ok(found.into_iter().map(|one| (one.name, one.words, one.place.line)).collect())
    }

    #[test]
    fn a_directive_goes_on_behind_a_backslash_and_quotes_hold_one_word() {
        let text =
            "# SecRule x \\\nSecRule ARGS|!ARGS:a \"@rx a\\\"b\\d\" \\\n    \"id:1,\\\n  deny\"\n\nSecMarker END\n";
        let found = read(text).unwrap();
        let rule = vec!["ARGS|!ARGS:a".to_owned(), "@rx a\"b\\d".to_owned(), "id:1,deny".to_owned()];
        assert_eq!(found, [("SecRule".to_owned(), rule, 2), ("SecMarker".to_owned(), vec!["END".to_owned()], 6)]);
        assert_eq!(read("\nSecRule \"a").unwrap_err(), "a.conf:2: a quote is not closed");
    }

    #[test]
    fn included_files_stand_in_the_place_of_the_include() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        put("all.conf", "SecMarker A\nInclude b*.conf\nIncludeOptional nothing*\nSecMarker Z\n");
        put("b2.conf", "SecMarker C");
        put("b1.conf", "SecMarker B");
        let mut found = Vec::new();
        file(&folder.path().join("all.conf"), &mut found).unwrap();
        let names: Vec<_> = found.iter().map(|one| one.words.join("")).collect();
        assert_eq!(names, ["A", "B", "C", "Z"]);

        put("all.conf", "Include missing.conf");
        assert!(file(&folder.path().join("all.conf"), &mut found).unwrap_err().contains("there is no file"));
        put("all.conf", "Include all.conf");
        assert!(file(&folder.path().join("all.conf"), &mut found).unwrap_err().contains("include each other"));
    }
}

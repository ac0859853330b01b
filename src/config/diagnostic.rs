//! What is wrong with a file, where, and what may have been meant.

use std::fmt;

use super::tree::Place;

/// One thing wrong with the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Whether it refuses the file.
    pub severity: Severity,
    /// Where it stands.
    pub place: Place,
    /// What is wrong; never repeats a value, which may be secret.
    pub message: String,
    /// What to do about it, or what would have been right.
    pub help: Option<String>,
    /// Another place that belongs to it: the first of two twins.
    pub related: Option<(Place, String)>,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The file is refused.
    Error,
    /// The file works, but probably not as meant.
    Warning,
}

impl Diagnostic {
    /// An error at `place`.
    pub fn error(place: Place, message: impl Into<String>) -> Self {
        Self { severity: Severity::Error, place, message: message.into(), help: None, related: None }
    }

    /// A warning at `place`.
    pub fn warning(place: Place, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(place, message) }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Adds the help that `nearest` finds, if it finds any.
    #[must_use]
    pub fn nearest<'a, I: IntoIterator<Item = &'a str>>(self, name: &str, valid: I) -> Self {
        match nearest(name, valid) {
            Some(help) => self.help(help),
            None => self,
        }
    }

    /// Adds another place that belongs to it.
    #[must_use]
    pub fn related(mut self, place: Place, label: impl Into<String>) -> Self {
        self.related = Some((place, label.into()));
        self
    }
}

/// The valid name that is close enough to be meant.
pub fn closest<'a>(name: &str, valid: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    valid
        .into_iter()
        // `rs256` is `RS256`, and not `ES256`, which is as near.
        .map(|one| (strsim::damerau_levenshtein(&name.to_ascii_lowercase(), &one.to_ascii_lowercase()), one))
        .filter(|(distance, one)| *distance <= one.len().max(name.len()).div_ceil(3))
        .min()
        .map(|(_, one)| one)
}

/// Names the closest of the valid names, or lists them if none is close.
pub fn nearest<'a, I: IntoIterator<Item = &'a str>>(name: &str, valid: I) -> Option<String> {
    let valid: Vec<&str> = valid.into_iter().collect();
    match closest(name, valid.iter().copied()) {
        Some(one) => Some(format!("did you mean `{one}`?")),
        None if valid.is_empty() => None,
        None => {
            let shown = valid.iter().take(20).map(|one| format!("`{one}`"));
            let mut list = shown.collect::<Vec<_>>().join(", ");
            if valid.len() > 20 {
                list.extend([" and ", &(valid.len() - 20).to_string(), " more"]);
            }
            Some(format!("valid here: {list}"))
        }
    }
}

/// Everything wrong with one file, ready to be shown.
#[derive(Clone, Debug)]
pub struct Report {
    /// The name of the file.
    pub file: String,
    /// The lines of the file, with everything secret blanked out.
    pub lines: Vec<String>,
    /// In the order of the file.
    pub found: Vec<Diagnostic>,
    /// What is wrong with the files that it names.
    pub more: Vec<Self>,
}

impl Report {
    /// A report without a snippet: the file could not even be read.
    pub fn plain(file: &str, message: impl Into<String>) -> Self {
        let found = vec![Diagnostic::error(Place::default(), message)];
        Self { file: file.to_owned(), lines: Vec::new(), found, more: Vec::new() }
    }

    /// How many of them refuse the file.
    pub fn errors(&self) -> usize {
        let own = self.found.iter().filter(|one| one.severity == Severity::Error).count();
        own + self.more.iter().map(Self::errors).sum::<usize>()
    }

    /// Whether nothing was found.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty() && self.more.iter().all(Self::is_empty)
    }

    /// The first error in one line, for logs and metrics.
    pub fn summary(&self) -> String {
        let errors = self.errors();
        let Some((file, first)) = self.first_error() else {
            return format!("{}: no error", self.file);
        };
        let mut text = format!("{file}{}: {}", At(first.place), first.message);
        if errors > 1 {
            text.extend([" (and ", &(errors - 1).to_string(), " more)"]);
        }
        text
    }

    fn first_error(&self) -> Option<(&str, &Diagnostic)> {
        let own = self.found.iter().find(|one| one.severity == Severity::Error);
        let own = own.map(|first| (self.file.as_str(), first));
        own.or_else(|| self.more.iter().find_map(Self::first_error))
    }

    fn snippet(&self, f: &mut fmt::Formatter<'_>, place: Place, label: &str) -> fmt::Result {
        let line = place.line.checked_sub(1).and_then(|at| self.lines.get(at));
        let Some(line) = line else {
            return Ok(());
        };
        let margin = " ".repeat(place.line.to_string().len());
        let text: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let before = place.column.saturating_sub(1);
        let left = text.chars().count().saturating_sub(before);
        let marks = "^".repeat(place.width.min(left).max(1));
        writeln!(f, " {margin} |")?;
        writeln!(f, " {} | {text}", place.line)?;
        let label = if label.is_empty() { "" } else { label };
        let gap = if label.is_empty() { "" } else { " " };
        writeln!(f, " {margin} | {}{marks}{gap}{label}", " ".repeat(before))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for one in &self.found {
            let severity = match one.severity {
                Severity::Error => "error",
                Severity::Warning => "warning",
            };
            writeln!(f, "{severity}: {}", one.message)?;
            writeln!(f, "  --> {}{}", self.file, At(one.place))?;
            self.snippet(f, one.place, "")?;
            if let Some((place, label)) = &one.related {
                writeln!(f, "  ::: {}{}", self.file, At(*place))?;
                self.snippet(f, *place, label)?;
            }
            if let Some(help) = &one.help {
                writeln!(f, "  = help: {help}")?;
            }
            writeln!(f)?;
        }
        self.more.iter().try_for_each(|other| other.fmt(f))
    }
}

/// `:line:column`, or nothing where it is not known.
struct At(Place);

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.line {
            0 => Ok(()),
            line => write!(f, ":{line}:{}", self.0.column),
        }
    }
}

//! What rules look at (`ARGS`, `REQUEST_HEADERS:User-Agent`), and how they name it.

use regex::bytes::Regex;

use super::pattern;

/// Something that a request has, or that rules keep about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(usize)]
pub(super) enum Variable {
    ArgsGet,
    ArgsPost,
    ArgsGetNames,
    ArgsPostNames,
    Cookies,
    CookiesNames,
    Headers,
    HeadersNames,
    Files,
    FilesNames,
    FilesSizes,
    PartHeaders,
    Xml,
    Method,
    Uri,
    UriRaw,
    Filename,
    Basename,
    Line,
    Protocol,
    Query,
    Body,
    BodyLength,
    BodyProcessor,
    BodyError,
    ArgsCombinedSize,
    FilesCombinedSize,
    RemoteAddr,
    ServerName,
    UniqueId,
    Duration,
    /// What rules count (`TX`).
    Tx,
    MatchedVar,
    MatchedVarName,
    MatchedVars,
    MatchedVarsNames,
    /// A collection that outlives a request, or one that the gateway does not fill: always empty.
    Nothing,
}

impl Variable {
    /// As many there are.
    pub(super) const COUNT: usize = 37;

    /// Where it stands in tables.
    #[expect(clippy::as_conversions, reason = "an enum's number")]
    pub(super) const fn index(self) -> usize {
        self as usize
    }

    /// Whether it is the same for the whole request, so that what was found out about it holds.
    pub(super) const fn is_fact(self) -> bool {
        !matches!(
            self,
            Self::Tx
                | Self::MatchedVar
                | Self::MatchedVarName
                | Self::MatchedVars
                | Self::MatchedVarsNames
                | Self::Nothing
        )
    }

    /// What a name in a rule stands for; some stand for several.
    fn named(name: &str) -> Option<&'static [Self]> {
        NAMES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, variables)| *variables)
    }
}

use Variable as V;

const NAMES: &[(&str, &[Variable])] = &[
    ("ARGS", &[V::ArgsGet, V::ArgsPost]),
    ("ARGS_GET", &[V::ArgsGet]),
    ("ARGS_POST", &[V::ArgsPost]),
    ("ARGS_NAMES", &[V::ArgsGetNames, V::ArgsPostNames]),
    ("ARGS_GET_NAMES", &[V::ArgsGetNames]),
    ("ARGS_POST_NAMES", &[V::ArgsPostNames]),
    ("ARGS_COMBINED_SIZE", &[V::ArgsCombinedSize]),
    ("REQUEST_COOKIES", &[V::Cookies]),
    ("REQUEST_COOKIES_NAMES", &[V::CookiesNames]),
    ("REQUEST_HEADERS", &[V::Headers]),
    ("REQUEST_HEADERS_NAMES", &[V::HeadersNames]),
    ("FILES", &[V::Files]),
    ("FILES_NAMES", &[V::FilesNames]),
    ("FILES_SIZES", &[V::FilesSizes]),
    ("FILES_COMBINED_SIZE", &[V::FilesCombinedSize]),
    ("MULTIPART_FILENAME", &[V::Files]),
    ("MULTIPART_NAME", &[V::FilesNames]),
    ("MULTIPART_PART_HEADERS", &[V::PartHeaders]),
    ("MULTIPART_STRICT_ERROR", &[V::BodyError]),
    ("XML", &[V::Xml]),
    ("REQUEST_METHOD", &[V::Method]),
    ("REQUEST_URI", &[V::Uri]),
    ("REQUEST_URI_RAW", &[V::UriRaw]),
    ("REQUEST_FILENAME", &[V::Filename]),
    ("REQUEST_BASENAME", &[V::Basename]),
    ("PATH_INFO", &[V::Filename]),
    ("REQUEST_LINE", &[V::Line]),
    ("REQUEST_PROTOCOL", &[V::Protocol]),
    ("QUERY_STRING", &[V::Query]),
    ("REQUEST_BODY", &[V::Body]),
    ("REQUEST_BODY_LENGTH", &[V::BodyLength]),
    ("REQBODY_PROCESSOR", &[V::BodyProcessor]),
    ("REQBODY_ERROR", &[V::BodyError]),
    ("REQBODY_PROCESSOR_ERROR", &[V::BodyError]),
    ("REMOTE_ADDR", &[V::RemoteAddr]),
    ("SERVER_NAME", &[V::ServerName]),
    ("UNIQUE_ID", &[V::UniqueId]),
    ("DURATION", &[V::Duration]),
    ("TX", &[V::Tx]),
    ("MATCHED_VAR", &[V::MatchedVar]),
    ("MATCHED_VAR_NAME", &[V::MatchedVarName]),
    ("MATCHED_VARS", &[V::MatchedVars]),
    ("MATCHED_VARS_NAMES", &[V::MatchedVarsNames]),
    ("IP", &[V::Nothing]),
    ("GLOBAL", &[V::Nothing]),
    ("SESSION", &[V::Nothing]),
    ("USER", &[V::Nothing]),
    ("RESOURCE", &[V::Nothing]),
    ("GEO", &[V::Nothing]),
    ("WEBSERVER_ERROR_LOG", &[V::Nothing]),
    ("MULTIPART_UNMATCHED_BOUNDARY", &[V::Nothing]),
    ("INBOUND_DATA_ERROR", &[V::Nothing]),
];

/// Which members of a variable a rule means.
#[derive(Clone, Debug)]
pub(super) enum Selector {
    All,
    /// The ones of this name, which is in lower case.
    Key(Box<[u8]>),
    Pattern(Regex),
}

impl Selector {
    /// Whether the member of this name is meant.
    pub(super) fn takes(&self, key: &[u8]) -> bool {
        match self {
            Self::All => true,
            Self::Key(wanted) => wanted.eq_ignore_ascii_case(key),
            Self::Pattern(pattern) => pattern.is_match(key),
        }
    }
}

/// One thing that a rule looks at.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// All of them are one collection: those of the query and those of the body, mostly.
    pub(super) variables: &'static [Variable],
    pub(super) selector: Selector,
    /// It is how many there are that counts (`&ARGS`).
    pub(super) counted: bool,
}

impl Target {
    /// Whether it takes this member.
    pub(super) fn takes(&self, variable: Variable, key: &[u8]) -> bool {
        self.variables.contains(&variable) && self.selector.takes(key)
    }

    /// The variable, or the first of them.
    pub(super) fn variable(&self) -> Variable {
        self.variables.first().copied().unwrap_or(Variable::Nothing)
    }
}

/// What a rule looks at, and what of that it leaves out.
#[derive(Clone, Debug, Default)]
pub(super) struct Targets {
    pub(super) wanted: Vec<Target>,
    pub(super) left_out: Vec<Target>,
}

impl Targets {
    /// Reads `ARGS|!ARGS:id|&REQUEST_HEADERS:Host`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut targets = Self::default();
        for word in split(text) {
            let (inverted, word) = word.strip_prefix('!').map_or((false, word), |word| (true, word));
            let read = one(word.trim())?;
            if inverted { targets.left_out.push(read) } else { targets.wanted.push(read) }
        }
        Ok(targets)
    }
}

/// At each `|` or `,` that is not within a pattern.
fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut pattern, mut escaped) = (Vec::new(), 0, false, false);
    let mut before = ' ';
    for (at, letter) in text.char_indices() {
        match letter {
            '/' if pattern && !escaped => pattern = false,
            // What stands behind `XML:` is a path, and no pattern.
            '/' if !pattern && matches!(before, ':' | '\'') && !is_xml(text.get(start..at)) => {
                pattern = text.get(at + 1..).is_some_and(|rest| rest.contains('/'));
            }
            '|' | ',' if !pattern => {
                parts.push(text.get(start..at).unwrap_or_default());
                start = at + 1;
            }
            _ => {}
        }
        escaped = letter == '\\' && !escaped;
        before = letter;
    }
    parts.push(text.get(start..).unwrap_or_default());
    parts
}

fn is_xml(word: Option<&str>) -> bool {
    word.is_some_and(|word| word.trim_start_matches(['!', '&']).to_ascii_uppercase().starts_with("XML:"))
}

/// What one word means.
pub(super) fn one(word: &str) -> Result<Target, String> {
    let (counted, word) = word.strip_prefix('&').map_or((false, word), |word| (true, word));
    let (name, key) = word.split_once(':').map_or((word, None), |(name, key)| (name, Some(key)));
    let variables = Variable::named(name).ok_or_else(|| format!("`{name}` is nothing that rules here can look at"))?;
    let selector = match key {
        // What is said of XML is the text of all elements; attributes are looked at with it.
        Some(_) if variables == [Variable::Xml] => Selector::All,
        None | Some("") => Selector::All,
        Some(key) => {
            let key = key.strip_prefix('\'').and_then(|key| key.strip_suffix('\'')).unwrap_or(key);
            match key.strip_prefix('/').and_then(|pattern| pattern.strip_suffix('/')) {
                Some(pattern) => Selector::Pattern(pattern::compile(pattern, true)?),
                None => Selector::Key(key.to_ascii_lowercase().into_bytes().into()),
            }
        }
    };
    Ok(Target { variables, selector, counted })
}

/// The name of a variable, for the log.
pub(super) fn name(variable: Variable) -> &'static str {
    NAMES.iter().find(|(_, variables)| variables.contains(&variable)).map_or("", |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_what_they_say() {
        let targets = Targets::parse("ARGS|!ARGS:Id|!ARGS:/^x|y$/|&REQUEST_HEADERS:Host|XML:/*").unwrap();
        assert_eq!(targets.wanted.len(), 3);
        assert_eq!(targets.left_out.len(), 2);
        let left_out = |key: &[u8]| targets.left_out.iter().any(|one| one.takes(Variable::ArgsPost, key));
        assert!(left_out(b"ID") && left_out(b"xa") && left_out(b"by") && !left_out(b"b"));
        assert!(targets.wanted.iter().any(|one| one.counted && one.takes(Variable::Headers, b"host")));
        let behind = Targets::parse("XML:/*|ARGS|!XML://@*|REQUEST_HEADERS:/^x-|y/").unwrap();
        assert_eq!((behind.wanted.len(), behind.left_out.len()), (3, 1));
        assert!(behind.wanted.iter().any(|one| one.takes(Variable::Headers, b"x-a")));
        assert!(Targets::parse("ARGS|NONSENSE").unwrap_err().contains("NONSENSE"));
    }

    #[test]
    fn every_variable_has_its_place() {
        for (_, variables) in NAMES {
            assert!(variables.iter().all(|variable| variable.index() < Variable::COUNT));
        }
        assert_eq!(Variable::Nothing.index() + 1, Variable::COUNT);
    }
}

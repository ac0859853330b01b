//! What a request has, taken apart once, in the way in which the upstream would.

use std::{borrow::Cow, net::IpAddr};

use http::{HeaderMap, header};

use super::{
    body::{self, Parts},
    decode,
    variable::Variable,
};

/// One member of a variable.
#[derive(Debug)]
pub(super) struct Item<'a> {
    pub(super) variable: Variable,
    pub(super) key: Cow<'a, [u8]>,
    pub(super) value: Cow<'a, [u8]>,
}

/// A request, as rules look at it.
#[derive(Debug)]
pub(super) struct Request<'a> {
    pub(super) method: &'a str,
    /// Path and query, as the upstream gets them.
    pub(super) target: &'a str,
    pub(super) protocol: &'static str,
    pub(super) headers: &'a HeaderMap,
    pub(super) client: IpAddr,
    pub(super) host: &'a str,
    pub(super) id: &'a str,
}

/// More arguments, cookies or values of JSON are no request for an interface; each costs a look by every rule.
pub(super) const MAX_MEMBERS: usize = 1_000;

/// What there is to look at.
#[derive(Debug)]
pub(super) struct Facts<'a> {
    pub(super) items: Vec<Item<'a>>,
    members: Vec<Vec<usize>>,
}

impl<'a> Facts<'a> {
    /// Of the header alone.
    pub(super) fn of_header(request: &Request<'a>) -> Self {
        let mut facts = Self { items: Vec::with_capacity(48), members: vec![Vec::new(); Variable::COUNT] };
        let (path, query) = request.target.split_once('?').unwrap_or((request.target, ""));
        let path = decode_path(path.as_bytes());
        let base = path.rsplit(|byte| *byte == b'/' || *byte == b'\\').next().unwrap_or_default().to_vec();
        let line = format!("{} {} {}", request.method, request.target, request.protocol).into_bytes();
        for (variable, value) in [
            (Variable::Method, Cow::Borrowed(request.method.as_bytes())),
            (Variable::Uri, Cow::Borrowed(request.target.as_bytes())),
            (Variable::UriRaw, Cow::Borrowed(request.target.as_bytes())),
            (Variable::Filename, path),
            (Variable::Basename, Cow::Owned(base)),
            (Variable::Line, Cow::Owned(line)),
            (Variable::Protocol, Cow::Borrowed(request.protocol.as_bytes())),
            (Variable::Query, Cow::Borrowed(query.as_bytes())),
            (Variable::RemoteAddr, Cow::Owned(request.client.to_string().into_bytes())),
            (Variable::ServerName, Cow::Borrowed(request.host.as_bytes())),
            (Variable::UniqueId, Cow::Borrowed(request.id.as_bytes())),
            (Variable::Duration, Cow::Borrowed(&b"0"[..])),
        ] {
            facts.put(variable, Cow::Borrowed(b""), value);
        }
        for (name, value) in form(query.as_bytes()) {
            facts.argument(Variable::ArgsGet, Variable::ArgsGetNames, name, value);
        }
        facts.headers(request.headers);
        let processor = facts.first(Variable::Headers, b"content-type").map_or("", body::processor);
        facts.put(Variable::BodyProcessor, Cow::Borrowed(b""), Cow::Borrowed(processor.as_bytes()));
        facts
    }

    fn headers(&mut self, headers: &'a HeaderMap) {
        for (name, value) in headers {
            let name = name.as_str().as_bytes();
            self.put(Variable::Headers, Cow::Borrowed(name), Cow::Borrowed(value.as_bytes()));
            self.put(Variable::HeadersNames, Cow::Borrowed(name), Cow::Borrowed(name));
        }
        for cookies in headers.get_all(header::COOKIE) {
            for cookie in cookies.as_bytes().split(|byte| *byte == b';').map(<[u8]>::trim_ascii) {
                let (name, value) = cut(cookie, b'=');
                if !cookie.is_empty() {
                    self.put(Variable::Cookies, Cow::Borrowed(name), Cow::Borrowed(value));
                    self.put(Variable::CookiesNames, Cow::Borrowed(name), Cow::Borrowed(name));
                }
            }
        }
    }

    /// Adds what is known when the body is there, or when there is none.
    pub(super) fn add_body(&mut self, body: &'a [u8], processor: &'static str, keep: bool) -> Result<(), body::Broken> {
        let mut outcome = Ok(());
        if !processor.is_empty() {
            let media_type = self.first(Variable::Headers, b"content-type").unwrap_or_default().to_vec();
            let mut parts = Parts::default();
            outcome = body::read(processor, &media_type, body, &mut parts);
            self.add_parts(parts);
        }
        let broken = if outcome.is_err() { &b"1"[..] } else { b"0" };
        self.put(Variable::BodyError, Cow::Borrowed(b""), Cow::Borrowed(broken));
        let said = self.members(Variable::BodyProcessor).first().copied();
        if let Some(said) = said.and_then(|at| self.items.get_mut(at)) {
            said.value = Cow::Borrowed(processor.as_bytes());
        }
        // What files and markup are is looked at by their parts, as the Core Rule Set wants it.
        if !body.is_empty() && (keep || !body::has_markup(processor)) {
            self.put(Variable::Body, Cow::Borrowed(b""), Cow::Borrowed(body));
        }
        self.size(Variable::BodyLength, body.len());
        let sizes = |of: Variable| self.of(of).map(|item| item.key.len() + item.value.len()).sum::<usize>();
        let arguments = sizes(Variable::ArgsGet) + sizes(Variable::ArgsPost);
        self.size(Variable::ArgsCombinedSize, arguments);
        let files = self.of(Variable::FilesSizes).map(|item| item.value.as_ref());
        let files = files.filter_map(|size| std::str::from_utf8(size).ok()?.parse::<usize>().ok()).sum();
        self.size(Variable::FilesCombinedSize, files);
        outcome
    }

    /// Adds that there is no body, or none that is looked at.
    pub(super) fn add_nothing(&mut self) {
        let nothing = self.add_body(b"", "", false);
        debug_assert!(nothing.is_ok(), "nothing cannot be broken");
    }

    fn add_parts(&mut self, parts: Parts<'a>) {
        for (name, value) in parts.fields {
            self.argument(Variable::ArgsPost, Variable::ArgsPostNames, name, value);
        }
        for file in parts.files {
            self.put(Variable::FilesNames, file.field.clone(), file.field.clone());
            self.put(Variable::FilesSizes, file.field.clone(), Cow::Owned(file.size.to_string().into_bytes()));
            self.put(Variable::Files, file.field, file.name);
        }
        for (name, line) in parts.headers {
            self.put(Variable::PartHeaders, name, line);
        }
        for text in parts.texts {
            self.put(Variable::Xml, Cow::Borrowed(b"/*"), text);
        }
    }

    fn size(&mut self, variable: Variable, size: usize) {
        self.put(variable, Cow::Borrowed(b""), Cow::Owned(size.to_string().into_bytes()));
    }

    fn argument(&mut self, values: Variable, names: Variable, name: Cow<'a, [u8]>, value: Cow<'a, [u8]>) {
        self.put(names, name.clone(), name.clone());
        self.put(values, name, value);
    }

    fn put(&mut self, variable: Variable, key: Cow<'a, [u8]>, value: Cow<'a, [u8]>) {
        if let Some(members) = self.members.get_mut(variable.index()) {
            members.push(self.items.len());
        }
        self.items.push(Item { variable, key, value });
    }

    /// Whether there are more arguments or cookies than are looked at.
    pub(super) fn are_too_many(&self) -> bool {
        let arguments = self.members(Variable::ArgsGet).len() + self.members(Variable::ArgsPost).len();
        arguments > MAX_MEMBERS || self.members(Variable::Cookies).len() > MAX_MEMBERS
    }

    /// Where the members of a variable stand.
    pub(super) fn members(&self, variable: Variable) -> &[usize] {
        self.members.get(variable.index()).map(Vec::as_slice).unwrap_or_default()
    }

    /// The members of a variable.
    pub(super) fn of(&self, variable: Variable) -> impl Iterator<Item = &Item<'a>> {
        self.members(variable).iter().filter_map(|at| self.items.get(*at))
    }

    /// The first member of this name.
    pub(super) fn first(&self, variable: Variable, key: &[u8]) -> Option<&[u8]> {
        self.of(variable).find(|item| item.key.eq_ignore_ascii_case(key)).map(|item| item.value.as_ref())
    }
}

/// A path has no `+` for a space.
fn decode_path(path: &[u8]) -> Cow<'_, [u8]> {
    if !path.contains(&b'%') {
        return Cow::Borrowed(path);
    }
    let pieces: Vec<_> = path.split(|byte| *byte == b'+').map(|piece| decode::url(piece, false)).collect();
    Cow::Owned(pieces.join(&b'+'))
}

/// The names and values of a query or a form, decoded once.
pub(super) fn form(text: &[u8]) -> impl Iterator<Item = (Cow<'_, [u8]>, Cow<'_, [u8]>)> {
    text.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = cut(pair, b'=');
        (decode::url(name, false), decode::url(value, false))
    })
}

/// What stands before the first of these bytes, and behind it.
pub(super) fn cut(text: &[u8], at: u8) -> (&[u8], &[u8]) {
    let middle = memchr::memchr(at, text).unwrap_or(text.len());
    let (before, behind) = text.split_at_checked(middle).unwrap_or((text, b""));
    (before, behind.get(1..).unwrap_or_default())
}

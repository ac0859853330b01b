//! Changes to headers: what `request_headers` and `response_headers` have in common.

use std::{collections::BTreeMap, fmt};

use http::{HeaderMap, HeaderName, HeaderValue};
use pingora::http::{RequestHeader, ResponseHeader};
use schemars::JsonSchema;
use serde::Deserialize;
use smallvec::SmallVec;

use super::template::Template;
use crate::{
    config::{check::Check, diagnostic::nearest, steps, types},
    identity::{are_confusable, is_reserved},
    proxy::{context::Context, spelling},
};

/// Which headers to remove, set and add; in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "HeaderEdit")]
pub struct Config {
    /// Headers that get this value, whatever they had. If nothing is left of the value, the header is removed.
    pub set: BTreeMap<types::HeaderName, Template>,
    /// Headers that get this value besides those that they have.
    pub add: BTreeMap<types::HeaderName, Template>,
    /// Headers to remove.
    pub remove: Vec<types::HeaderName>,
}

/// Which way a header goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Request,
    Response,
}

impl Direction {
    /// Why a header is not for the configuration to change.
    pub(super) fn forbids(self, name: &str) -> Option<&'static str> {
        match name {
            "connection" | "keep-alive" | "proxy-connection" | "te" | "trailer" | "transfer-encoding" | "upgrade" => {
                Some("this header belongs to one connection, so the gateway itself sets it")
            }
            "content-length" => Some("the length belongs to the body, so the gateway itself sets it"),
            "host" if self == Self::Request => Some("the host that the upstream sees is set by `host` of the route"),
            "via" | "traceparent" | "x-forwarded-for" | "x-forwarded-proto" if self == Self::Request => {
                Some("the gateway itself writes this header, behind the policies")
            }
            _ if self == Self::Request && is_reserved(name) => {
                Some("`x-consumer-*` says who is calling, so only authentication sets it")
            }
            _ => None,
        }
    }
}

/// Looks for headers that may not be changed, and for parameters that the route does not have.
pub(super) fn check(config: &Config, direction: Direction, check: &mut Check<'_>) {
    if *config == Config::default() {
        check.error(&[], "there is nothing to `set`, `add` or `remove`");
    }
    for (key, map) in [("set", &config.set), ("add", &config.add)] {
        for (name, template) in map {
            let way = steps![key, name.as_str()];
            if let Some(why) = direction.forbids(name.as_str()) {
                check.error(&way, why);
            }
            for param in template.params() {
                if let Some(message) = unknown_param(param, check.params) {
                    check.error(&way, message);
                }
            }
        }
    }
    for (i, name) in config.remove.iter().enumerate() {
        if let Some(why) = direction.forbids(name.as_str()) {
            check.error(&steps!["remove", i], why);
        }
    }
}

/// Why `{path.NAME}` can stand for nothing.
fn unknown_param(param: &str, params: Option<&[&str]>) -> Option<String> {
    let Some(params) = params else {
        return Some(format!("`{{path.{param}}}` needs the path of a route, and this is a policy for every route"));
    };
    if params.contains(&param) {
        return None;
    }
    let help = nearest(param, params.iter().copied());
    let help = help.map(|help| format!("; {help}")).unwrap_or_default();
    Some(format!("the path of the route has no parameter `{param}`{help}"))
}

/// The changes, ready to be made.
pub(super) struct Edit {
    remove: Box<[HeaderName]>,
    set: Box<[(HeaderName, Value)]>,
    add: Box<[(HeaderName, Value)]>,
    /// Under which values that come from the request wait for the response: this, and one more for each.
    id: u64,
}

#[derive(Debug)]
enum Value {
    Fixed(HeaderValue),
    Filled(Template),
}

impl fmt::Debug for Edit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Values may be secret.
        let names = |list: &[(HeaderName, Value)]| -> Vec<_> { list.iter().map(|(name, _)| name.clone()).collect() };
        f.debug_struct("Edit")
            .field("remove", &self.remove)
            .field("set", &names(&self.set))
            .field("add", &names(&self.add))
            .finish_non_exhaustive()
    }
}

/// The values of `set` and then of `add`; `None` where nothing is left of one.
type Values = SmallVec<[Option<HeaderValue>; 4]>;

impl Edit {
    pub(super) fn compile(config: &Config) -> Self {
        let compile = |map: &BTreeMap<types::HeaderName, Template>| {
            let compile = |(name, template): (&types::HeaderName, &Template)| {
                let fixed = template.literal().and_then(|text| HeaderValue::from_str(text).ok());
                let value = fixed.map_or_else(|| Value::Filled(template.clone()), Value::Fixed);
                (name.to_http(), value)
            };
            map.iter().map(compile).collect()
        };
        Self {
            remove: config.remove.iter().map(types::HeaderName::to_http).collect(),
            set: compile(&config.set),
            add: compile(&config.add),
            id: rand::random(),
        }
    }

    fn values(&self) -> impl Iterator<Item = &Value> {
        self.set.iter().chain(&self.add).map(|(_, value)| value)
    }

    /// Changes a request. All values are made before the first change, so that a header can be renamed.
    pub(super) fn apply_to_request(&self, request: &mut RequestHeader, ctx: &mut Context) {
        let values: Values = self
            .values()
            .map(|value| match value {
                Value::Fixed(value) => non_empty(value),
                Value::Filled(template) => to_header(&template.render(request, ctx)),
            })
            .collect();
        if ctx.keeps_answers() {
            let all = self.set.iter().chain(&self.add);
            ctx.written
                .extend(all.filter(|(_, value)| matches!(value, Value::Filled(_))).map(|(name, _)| name.clone()));
        }
        if ctx.confusable {
            self.remove_spellings(request);
        }
        if spelling::may_part(request) {
            spelling::edit_request(request, |headers| self.apply(values, headers));
        } else {
            self.apply(values, request);
        }
    }

    /// Takes away what some server takes for a header that is set or removed here: `X_Role` for `X-Role`.
    fn remove_spellings(&self, request: &mut RequestHeader) {
        let is_ours = |sent: &HeaderName| {
            let mut ours = self.set.iter().map(|(name, _)| name).chain(&self.remove);
            ours.any(|name| are_confusable(name.as_str(), sent.as_str()))
        };
        let twins: SmallVec<[HeaderName; 2]> = request.headers.keys().filter(|sent| is_ours(sent)).cloned().collect();
        for name in twins {
            request.remove_header(&name);
        }
    }

    /// Remembers what the response will need of the request.
    pub(super) fn capture(&self, request: &RequestHeader, ctx: &mut Context) {
        for (id, value) in (self.id..).zip(self.values()) {
            if let Value::Filled(template) = value
                && template.needs_request()
                && let Some(value) = to_header(&template.render(request, ctx))
            {
                ctx.captured.push((id, value));
            }
        }
    }

    /// Changes a response.
    pub(super) fn apply_to_response(&self, response: &mut ResponseHeader, ctx: &Context) {
        let values: Values = (self.id..)
            .zip(self.values())
            .map(|(id, value)| match value {
                Value::Fixed(value) => non_empty(value),
                Value::Filled(template) if template.needs_request() => {
                    let found = ctx.captured.iter().find(|(captured, _)| *captured == id);
                    found.map(|(_, value)| value.clone())
                }
                Value::Filled(template) => to_header(&template.render_late(ctx)),
            })
            .collect();
        if response.has_case() {
            self.apply(values, response);
        } else {
            spelling::edit_response(response, |headers| self.apply(values, headers));
        }
    }

    fn apply(&self, values: Values, to: &mut impl Headers) {
        for name in &self.remove {
            to.remove(name);
        }
        let mut values = values.into_iter();
        for ((name, _), value) in self.set.iter().zip(values.by_ref()) {
            match value {
                Some(value) => to.set(name, value),
                None => to.remove(name),
            }
        }
        for ((name, _), value) in self.add.iter().zip(values) {
            if let Some(value) = value {
                to.add(name, value);
            }
        }
    }
}

fn non_empty(value: &HeaderValue) -> Option<HeaderValue> {
    (!value.is_empty()).then(|| value.clone())
}

fn to_header(text: &str) -> Option<HeaderValue> {
    let text = text.trim();
    if text.is_empty() {
        return None;
    }
    HeaderValue::from_str(text).ok()
}

/// Requests and responses are two types in Pingora, with the same methods; without the spelling of names both are a map.
trait Headers {
    fn set(&mut self, name: &HeaderName, value: HeaderValue);
    fn add(&mut self, name: &HeaderName, value: HeaderValue);
    fn remove(&mut self, name: &HeaderName);
}

macro_rules! headers {
    ($name:ident) => {
        // Name and value are valid; all that can fail is that there are too many headers, and then this one is left out.
        impl Headers for $name {
            fn set(&mut self, name: &HeaderName, value: HeaderValue) {
                drop(self.insert_header(name, value));
            }

            fn add(&mut self, name: &HeaderName, value: HeaderValue) {
                drop(self.append_header(name, value));
            }

            fn remove(&mut self, name: &HeaderName) {
                self.remove_header(name);
            }
        }
    };
}
headers!(RequestHeader);
headers!(ResponseHeader);

impl Headers for HeaderMap {
    fn set(&mut self, name: &HeaderName, value: HeaderValue) {
        drop(self.try_insert(name, value));
    }

    fn add(&mut self, name: &HeaderName, value: HeaderValue) {
        drop(self.try_append(name, value));
    }

    fn remove(&mut self, name: &HeaderName) {
        Self::remove(self, name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(json: &str) -> Config {
        serde_json::from_str(json).unwrap()
    }

    fn apply(edit: &Edit, sent: &[(&'static str, &str)]) -> Vec<String> {
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        for (name, value) in sent {
            request.append_header(*name, *value).unwrap();
        }
        let values = edit.values().map(|value| match value {
            Value::Fixed(value) => non_empty(value),
            Value::Filled(_) => None,
        });
        edit.apply(values.collect(), &mut request);
        let headers = request.headers.iter();
        let mut lines: Vec<_> = headers.map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        lines.sort();
        lines
    }

    #[test]
    fn headers_are_removed_then_set_then_added() {
        let edit =
            Edit::compile(&config(r#"{"remove": ["x-a"], "set": {"x-b": "new"}, "add": {"x-a": "1", "x-c": "2"}}"#));
        let sent = [("x-a", "old"), ("x-b", "old"), ("X-B", "older"), ("x-c", "1")];
        assert_eq!(apply(&edit, &sent), ["x-a: 1", "x-b: new", "x-c: 1", "x-c: 2"]);
    }

    #[test]
    fn a_value_of_which_nothing_is_left_removes_what_the_client_sent() {
        let edit = Edit::compile(&config(r#"{"set": {"x-user": "{header.x-none}"}}"#));
        assert!(apply(&edit, &[("x-user", "root")]).is_empty());
    }

    #[test]
    fn headers_of_the_connection_the_body_and_the_caller_are_forbidden() {
        for name in ["connection", "te", "content-length", "host", "x-consumer-id", "x_consumer_id"] {
            assert!(Direction::Request.forbids(name).is_some(), "{name}");
        }
        assert!(Direction::Response.forbids("transfer-encoding").is_some());
        assert!(Direction::Response.forbids("server").is_none());
        assert!(Direction::Request.forbids("authorization").is_none());
    }

    #[test]
    fn a_parameter_has_to_be_in_the_path() {
        assert_eq!(unknown_param("id", Some(&["id"])), None);
        let message = unknown_param("idd", Some(&["id"])).unwrap();
        assert!(message.contains("did you mean `id`?"), "{message}");
        assert!(unknown_param("id", None).is_some());
    }
}

//! `authorize`: who may do what, by expressions over the request, the caller and the token, in
//! [CEL](https://github.com/google/cel-spec/blob/master/doc/langdef.md).
//!
//! # Rules
//!
//! - `deny`: if one of these holds, 403. `allow`: if there are any, one of them has to hold. `deny` goes first and wins.
//! - What cannot be said (a claim that is not there, or of another type) does not allow, and does deny. `has(claims.x)` asks whether it
//!   is there.
//! - Mistakes are found when the file is loaded: names that do not exist, operators that do not take their operands, conditions that are
//!   none. The types of claims and metadata are known only when they come.
//! - An expression has at most 4 KiB, and no `all`, `exists`, `map` or `filter` within another: what it costs is bounded by the size of the request.
//!
//! | variable | what it is |
//! |---|---|
//! | `request.method`, `request.host`, `request.scheme`, `request.route` | texts; the host without port |
//! | `request.path` | the path in its normal form |
//! | `request.params` | the parameters of the route's template, by name |
//! | `request.query` | query parameters by name, escapes not decoded; one that is there twice is left out |
//! | `request.headers` | headers by name in small letters; several values joined with `, ` |
//! | `consumer.name`, `consumer.groups`, `consumer.metadata` | of the consumer; empty if there is none |
//! | `claims` | of the token; empty if there is none |
//! | `client.ip` | the address of the client |
//!
//! # Example
//!
//! ```yaml
//! policies:
//!   - jwt: { issuer: https://idp.example.com, audience: api }
//!   - authorize:
//!       deny: ["claims.suspended == true && has(claims.suspended)"]
//!       allow:
//!         - "request.method == 'GET' && 'reader' in claims.roles"
//!         - "claims.sub == request.params.user"
//! ```

mod expression;

use std::{borrow::Cow, collections::HashMap};

use cel::Value;
use pingora::http::RequestHeader;
use schemars::JsonSchema;
use serde::Deserialize;

use self::expression::{Expression, Needs};
use super::{Flow, Policy, Stage};
use crate::{
    config::{check::Check, consumer::Metadata, steps},
    proxy::context::Context,
    reject::Reject,
    runtime::Build,
};

/// More expressions than this are a program.
const MAX_EXPRESSIONS: usize = 64;

/// Expressions of which one has to hold, or none may.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Authorize")]
pub struct Config {
    /// At least one of these holds, if there are any.
    pub allow: Vec<String>,
    /// None of these holds.
    pub deny: Vec<String>,
}

/// Lets only those pass of whom an expression says so.
#[derive(Debug)]
pub struct Authorize {
    allow: Box<[Expression]>,
    deny: Box<[Expression]>,
    needs: Needs,
}

impl Policy for Authorize {
    const STAGE: Stage = Stage::Authorize;
    type Config = Config;

    fn check(config: &Config, check: &mut Check<'_>) {
        if config.allow.is_empty() && config.deny.is_empty() {
            check.error(&[], "what has to hold? Write `allow` or `deny`");
        }
        if config.allow.len() + config.deny.len() > MAX_EXPRESSIONS {
            check.error(&[], format!("at most {MAX_EXPRESSIONS} expressions"));
        }
        let mut asks_who = false;
        for (key, list) in [("allow", &config.allow), ("deny", &config.deny)] {
            for (i, text) in list.iter().enumerate() {
                match Expression::parse(text) {
                    Ok(expression) => asks_who |= expression.needs.consumer || expression.needs.claims,
                    Err(why) => check.error(&steps![key, i], why),
                }
            }
        }
        if asks_who {
            check.needs_authentication();
        }
    }

    fn compile(config: &Config, _: &mut Build<'_>) -> Result<Self, String> {
        let parse = |list: &[String]| list.iter().map(|text| Expression::parse(text)).collect::<Result<Box<_>, _>>();
        let (allow, deny) = (parse(&config.allow)?, parse(&config.deny)?);
        let needs = allow.iter().chain(&deny).fold(Needs::default(), |all, one| all.and(one.needs));
        Ok(Self { allow, deny, needs })
    }

    async fn on_request(&self, request: &mut RequestHeader, ctx: &mut Context) -> Result<Flow, Reject> {
        let variables = self.variables(request, ctx);
        if let Some(i) = self.deny.iter().position(|one| one.holds(&variables).unwrap_or(true)) {
            let why = format!("expression {} of `deny` holds, or cannot be told", i + 1);
            return Err(Reject::Forbidden(why.into()));
        }
        if self.allow.is_empty() || self.allow.iter().any(|one| one.holds(&variables) == Some(true)) {
            return Ok(Flow::Continue);
        }
        Err(Reject::Forbidden("no expression of `allow` holds".into()))
    }
}

impl Needs {
    fn and(self, other: Self) -> Self {
        Self {
            request: self.request || other.request,
            query: self.query || other.query,
            headers: self.headers || other.headers,
            params: self.params || other.params,
            consumer: self.consumer || other.consumer,
            claims: self.claims || other.claims,
            client: self.client || other.client,
        }
    }
}

type Map = HashMap<String, Value>;

impl Authorize {
    fn variables(&self, request: &RequestHeader, ctx: &Context) -> cel::Context<'static, 'static> {
        let mut context = expression::context();
        let mut add = |name: &str, map: Map| context.add_variable_from_value(name, map);
        if self.needs.request {
            add("request", self.request(request, ctx));
        }
        if self.needs.consumer {
            add("consumer", consumer(ctx));
        }
        if self.needs.client {
            add("client", Map::from([("ip".to_owned(), ctx.client_ip.to_string().into())]));
        }
        if self.needs.claims {
            let token = ctx.identity.as_ref().and_then(|identity| identity.token.as_ref());
            let claims = token.and_then(|token| token.claims.as_deref()).map(cel::to_value);
            let claims = claims.and_then(Result::ok).unwrap_or_else(|| Map::new().into());
            context.add_variable_from_value("claims", claims);
        }
        context
    }

    fn request(&self, request: &RequestHeader, ctx: &Context) -> Map {
        let path = request.uri.path();
        let mut map = Map::from([
            ("method".to_owned(), request.method.as_str().into()),
            ("path".to_owned(), path.into()),
            ("host".to_owned(), Value::from(&*ctx.host)),
            ("scheme".to_owned(), if ctx.secure { "https" } else { "http" }.into()),
            ("route".to_owned(), ctx.route.as_ref().map_or("", |route| &route.name).into()),
        ]);
        if self.needs.headers {
            let mut all = HashMap::<String, Value>::new();
            for name in request.headers.keys() {
                let values =
                    request.headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
                let joined = values.collect::<Vec<Cow<'_, str>>>().join(", ");
                all.insert(name.as_str().to_owned(), joined.into());
            }
            map.insert("headers".into(), all.into());
        }
        if self.needs.query {
            map.insert("query".into(), query(request.uri.query().unwrap_or_default()).into());
        }
        if self.needs.params {
            let names = ctx.route.iter().flat_map(|route| &route.params);
            let params = names.filter_map(|name| Some((name.to_string(), ctx.param(path, name)?.into())));
            map.insert("params".into(), params.collect::<Map>().into());
        }
        map
    }
}

/// Parameters by name, without those that are there twice: upstreams differ in which of the two they take.
fn query(text: &str) -> Map {
    let mut seen: HashMap<&str, Option<&str>> = HashMap::new();
    for pair in text.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        seen.entry(name).and_modify(|known| *known = None).or_insert(Some(value));
    }
    seen.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.into()))).collect()
}

fn consumer(ctx: &Context) -> Map {
    let consumer = ctx.identity.as_ref().and_then(|identity| identity.consumer.as_ref());
    let groups = consumer.map(|one| one.groups.iter().map(|group| Value::from(&**group)).collect::<Vec<_>>());
    let metadata = consumer.map(|one| {
        let pairs = one.metadata.iter().map(|(name, value)| {
            let value = match value {
                Metadata::Bool(value) => Value::Bool(*value),
                Metadata::Number(value) => Value::Int(*value),
                Metadata::Text(value) => value.as_str().into(),
            };
            (name.clone(), value)
        });
        pairs.collect::<Map>()
    });
    Map::from([
        ("name".to_owned(), consumer.map_or("", |one| &one.name).into()),
        ("groups".to_owned(), groups.unwrap_or_default().into()),
        ("metadata".to_owned(), metadata.unwrap_or_default().into()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_that_is_there_twice_is_none() {
        let found = query("a=1&b=2&b=3&c&&d=x=y");
        let mut names: Vec<_> = found.keys().map(String::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["a", "c", "d"]);
        assert_eq!(found["d"], Value::from("x=y"));
    }
}

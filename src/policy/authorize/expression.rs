//! One expression: parsed, looked through, and evaluated.
//!
//! The `cel` crate knows types only while it evaluates. So an expression is looked through when it is loaded: every name has to be one
//! that there is, and every part of it that depends on nothing but the gateway's own variables is evaluated once, with values of the right
//! types, to see that its operators take them and that conditions are conditions. Of claims and metadata no types are known.
//!
//! How long an evaluation takes is bounded: an expression has at most 4 KiB, and no `all`, `exists`, `map` or `filter` stands within another,
//! so it looks at each part of a request a fixed number of times.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use cel::{
    Context, Env, ExecutionError, IdedExpr, Program, Value,
    common::ast::{EntryExpr, Expr, operators},
};

/// A longer expression is a program, and belongs into a service.
const MAX_LENGTH: usize = 4096;

/// Variables, and what they have. The fields with `true` are maps of whatever the request or the file has.
const VARIABLES: [(&str, &[(&str, bool)]); 4] = [
    (
        "request",
        &[
            ("method", false),
            ("path", false),
            ("host", false),
            ("scheme", false),
            ("route", false),
            ("query", true),
            ("headers", true),
            ("params", true),
        ],
    ),
    ("consumer", &[("name", false), ("groups", false), ("metadata", true)]),
    ("claims", &[]),
    ("client", &[("ip", false)]),
];

/// An expression that was looked through.
pub(super) struct Expression {
    program: Program,
    /// Which variables it needs.
    pub(super) needs: Needs,
}

impl std::fmt::Debug for Expression {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Expression").field("needs", &self.needs).finish_non_exhaustive()
    }
}

/// Which variables have to be there.
#[expect(clippy::struct_excessive_bools, reason = "names that have nothing to do with each other")]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Needs {
    pub(super) request: bool,
    pub(super) query: bool,
    pub(super) headers: bool,
    pub(super) params: bool,
    pub(super) consumer: bool,
    pub(super) claims: bool,
    pub(super) client: bool,
}

/// The standard functions, made once.
fn env() -> Arc<Env> {
    static ENV: OnceLock<Arc<Env>> = OnceLock::new();
    Arc::clone(ENV.get_or_init(|| Arc::new(Env::stdlib())))
}

/// Variables for an evaluation.
pub(super) fn context() -> Context<'static, 'static> {
    Context::with_env(env())
}

impl Expression {
    /// Parses and looks through a text; the error says what is wrong, in one line.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text.len() > MAX_LENGTH {
            return Err(format!("an expression has at most {MAX_LENGTH} characters"));
        }
        let program = env().compile(text).map_err(|errors| {
            let first = errors.errors.first();
            let what = first.map_or("it cannot be read", |error| error.msg.lines().next().unwrap_or_default());
            let column = first.map_or(1, |error| error.pos.1);
            format!("this is no expression of CEL: {what} (character {column})")
        })?;
        let mut look = Look { context: sample(), bound: Vec::new() };
        look.through(program.expression())?;
        look.is_condition(program.expression())?;
        let names = program.references();
        let reads = |field: &str| names.has_variable("request") && text.contains(field);
        let needs = Needs {
            request: names.has_variable("request"),
            query: reads("query"),
            headers: reads("headers"),
            params: reads("params"),
            consumer: names.has_variable("consumer"),
            claims: names.has_variable("claims"),
            client: names.has_variable("client"),
        };
        Ok(Self { program, needs })
    }

    /// Whether it holds; `None` if that cannot be said: a claim is not there, or has another type.
    pub(super) fn holds(&self, context: &Context<'_, '_>) -> Option<bool> {
        match self.program.execute(context) {
            Ok(Value::Bool(holds)) => Some(holds),
            Ok(_) => None,
            Err(error) => {
                log::debug!("an expression of `authorize`: {error}");
                None
            }
        }
    }
}

/// Values of the right types.
fn sample() -> Context<'static, 'static> {
    let mut context = context();
    let text = || Value::from("text");
    let empty = || Value::from(HashMap::<String, Value>::new());
    for (name, fields) in VARIABLES {
        let field = |(name, is_map): &(&str, bool)| {
            let value = match (*name, is_map) {
                ("groups", _) => Value::from(vec![text()]),
                (_, true) => empty(),
                (_, false) => text(),
            };
            ((*name).to_owned(), value)
        };
        context.add_variable_from_value(name, fields.iter().map(field).collect::<HashMap<String, Value>>());
    }
    context
}

/// Looks through an expression, from the outside to the inside.
struct Look {
    context: Context<'static, 'static>,
    /// Names that `all`, `exists`, `map` or `filter` binds where one is looked through.
    bound: Vec<String>,
}

impl Look {
    fn through(&mut self, part: &IdedExpr) -> Result<(), String> {
        match &part.expr {
            Expr::Unspecified | Expr::Literal(_) => {}
            Expr::Ident(name) => self.is_known(name)?,
            Expr::Select(select) => {
                Self::has_field(&select.operand, &select.field)?;
                self.through(&select.operand)?;
            }
            Expr::Call(call) => {
                for part in call.target.iter().map(|target| &**target).chain(&call.args) {
                    self.through(part)?;
                }
                let conditions = match call.func_name.as_str() {
                    operators::LOGICAL_AND | operators::LOGICAL_OR | operators::LOGICAL_NOT => call.args.len(),
                    operators::CONDITIONAL => 1,
                    _ => 0,
                };
                for part in call.args.iter().take(conditions) {
                    self.is_condition(part)?;
                }
            }
            Expr::Comprehension(loops) => {
                if !self.bound.is_empty() {
                    return Err(
                        "`all`, `exists`, `map` and `filter` do not stand within each other: that could take long"
                            .into(),
                    );
                }
                self.through(&loops.iter_range)?;
                self.bound = [Some(&loops.iter_var), loops.iter_var2.as_ref(), Some(&loops.accu_var)]
                    .into_iter()
                    .flatten()
                    .cloned()
                    .collect();
                let inside = [&loops.accu_init, &loops.loop_cond, &loops.loop_step, &loops.result];
                let looked = inside.iter().try_for_each(|part| self.through(part));
                self.bound.clear();
                looked?;
            }
            Expr::List(list) => list.elements.iter().try_for_each(|part| self.through(part))?,
            Expr::Map(map) => map.entries.iter().try_for_each(|entry| self.entry(&entry.expr))?,
            Expr::Struct(_) => return Err("there are no messages here".into()),
        }
        self.evaluate(part).map(drop)
    }

    fn entry(&mut self, entry: &EntryExpr) -> Result<(), String> {
        match entry {
            EntryExpr::StructField(field) => self.through(&field.value),
            EntryExpr::MapEntry(entry) => self.through(&entry.key).and_then(|()| self.through(&entry.value)),
        }
    }

    fn is_known(&self, name: &str) -> Result<(), String> {
        let known = VARIABLES.iter().any(|(variable, _)| *variable == name);
        if known || self.bound.iter().any(|bound| bound == name) {
            return Ok(());
        }
        Err(format!("there is no `{name}`: valid are `request`, `consumer`, `claims` and `client`"))
    }

    fn has_field(of: &IdedExpr, field: &str) -> Result<(), String> {
        let Expr::Ident(name) = &of.expr else { return Ok(()) };
        let fields = VARIABLES.iter().find(|(variable, _)| variable == name).map(|(_, fields)| *fields);
        match fields {
            Some(fields) if !fields.is_empty() && fields.iter().all(|(known, _)| *known != field) => {
                let all = fields.iter().map(|(known, _)| format!("`{known}`")).collect::<Vec<_>>().join(", ");
                Err(format!("`{name}` has no `{field}`; it has {all}"))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// What a part gives with values of the right types; nothing if that depends on what is not known.
    fn evaluate(&self, part: &IdedExpr) -> Result<Option<Value>, String> {
        if !self.bound.is_empty() {
            return Ok(None);
        }
        match Value::resolve(part, &self.context) {
            Ok(value) => Ok(Some(value)),
            // There are no claims yet, and no lists of any length.
            Err(ExecutionError::NoSuchKey(_) | ExecutionError::IndexOutOfBounds(_)) => Ok(None),
            Err(error) => Err(error.to_string().lines().next().unwrap_or_default().to_owned()),
        }
    }

    fn is_condition(&self, part: &IdedExpr) -> Result<(), String> {
        match self.evaluate(part)? {
            None | Some(Value::Bool(_)) => Ok(()),
            Some(other) => Err(format!("a condition is true or false, and this is a {}", other.type_of())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_condition_is_refused_when_it_is_loaded() {
        for (text, why) in [
            ("", "no expression of CEL"),
            ("1 +", "no expression of CEL"),
            ("request.method = 'GET'", "no expression of CEL"),
            ("1 + 1", "a condition is true or false"),
            ("request.method", "a condition is true or false"),
            ("request.method == 'GET' && 1", "a condition is true or false"),
            ("true || request.path", "a condition is true or false"),
            ("!request.path", ""),
            ("request.method > 1", ""),
            ("true || request.method + 1 == 2", ""),
            ("request.methode == 'GET'", "`request` has no `methode`"),
            ("req.method == 'GET'", "there is no `req`"),
            ("consumer.group == 'a'", "`consumer` has no `group`"),
            ("request.path.beginsWith('/a')", ""),
            ("nonsense(request.path)", ""),
            ("consumer.groups.all(a, consumer.groups.all(b, a == b))", "do not stand within each other"),
            ("consumer.groups.exists(g, other == g)", "there is no `other`"),
            (&format!("'{}' == ''", "x".repeat(5000)), "at most 4096"),
        ] {
            let error = Expression::parse(text).err().unwrap_or_else(|| panic!("{text}"));
            assert!(error.contains(why) && !error.contains('\n'), "{text}: {error}");
        }
    }

    #[test]
    fn what_may_hold_is_accepted_whatever_the_claims_will_be() {
        for text in [
            "true",
            "request.method == 'GET' || request.path.startsWith('/public/')",
            "'gold' in consumer.groups",
            "consumer.groups.exists(g, g.startsWith('team-'))",
            "claims.email_verified && claims.email.endsWith('@example.com')",
            "has(claims.realm_access) && 'admin' in claims.realm_access.roles",
            "claims.age >= 18",
            "claims.roles.exists(r, r == request.params.role)",
            "request.headers['x-tenant'] == consumer.metadata.tenant",
            "client.ip == '127.0.0.1' ? true : consumer.name != ''",
            "request.path.matches('^/a/[0-9]+$')",
            "size(request.query) == 0",
            "!(request.query.debug == '1')",
        ] {
            assert!(Expression::parse(text).is_ok(), "{text}: {:?}", Expression::parse(text).err());
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".{0,60}") {
            drop(Expression::parse(&text));
        }
    }
}

//! Routes: names, references, and pairs of which one takes every request of the other.
//!
//! Two routes are compared host by host. They are in one *group* if host and path are the same, whatever their
//! parameters are called; within a group the one with more predicates is asked first, then the earlier one. A route is
//! unreachable if an earlier one of its group wants no more than it does, or if a path that ranks higher takes
//! everything that its own could.

use std::collections::{BTreeMap, HashMap};

use pingora::http::RequestHeader;

use super::{File, Node, release};
use crate::{
    config::{
        Diagnostic,
        diagnostic::nearest,
        route::{HostPattern, Match, PathKind, PathMatch, Rewrite, Route},
        steps,
        types::Name,
        upstream::Protocol,
        web_socket::WebSocket,
    },
    route::{
        Found, RouteTable,
        path::normalise,
        pattern::{Segment, Template},
    },
};
use crate::{
    pace::give_way,
    policy::{Mode, PolicyConfig},
};

pub(super) fn check(file: &mut File<'_>) {
    let config = file.config;
    if config.routes.is_empty() && file.is_empty(&steps!["routes"]) {
        file.warning(&steps!["routes"], "there is no route: every request is answered with 404");
    }
    let tree = file.tree;
    let nodes: Vec<&Node> = tree.get(&steps!["routes"]).map(|routes| routes.items().collect()).unwrap_or_default();
    let mut names: HashMap<&Name, usize> = HashMap::new();
    for (i, route) in config.routes.iter().enumerate() {
        give_way();
        if let Some(first) = names.insert(&route.name, i) {
            let place = file.tree.locate(&steps!["routes", i, "name"]);
            let first = file.tree.locate(&steps!["routes", first, "name"]);
            file.found.push(
                Diagnostic::error(place, format!("two routes are named `{}`", route.name))
                    .related(first, "the other one"),
            );
        }
        check_one(file, i, route, nodes.get(i).copied());
    }
    for name in config.upstreams.keys() {
        let used = |route: &Route| {
            route.upstreams().any(|one| one == name)
                || route.mirror.as_ref().is_some_and(|mirror| mirror.upstream == *name)
        };
        let asked =
            config.every_policy().flat_map(|policy| policy.config.upstreams()).any(|(_, upstream)| upstream == name);
        let handed_on = config.listeners.iter().flat_map(|one| &one.passthrough).any(|rule| rule.upstream == *name);
        if !config.routes.is_empty() && !config.routes.iter().any(used) && !handed_on && !asked {
            let way = [super::Step::from("upstreams"), super::Step::KeyItself(name.to_string())];
            file.warning(&way, format!("no route uses the upstream `{name}`"));
        }
    }
    unreachable(file, &nodes);
    public(file);
    answered(file);
}

/// Requests that a policy answers itself, and that do not come to it.
fn answered(file: &mut File<'_>) {
    let config = file.config;
    let every = (steps!["policies"].to_vec(), None, &config.policies);
    let own = config.routes.iter().enumerate();
    let own = own.map(|(i, route)| (steps!["routes", i, "policies"].to_vec(), Some(i), &route.policies));
    let mut table = None;
    for (at, scope, policies) in std::iter::once(every).chain(own) {
        for (i, policy) in policies.iter().enumerate() {
            for asked in policy.config.answers() {
                let table = table.get_or_insert_with(|| {
                    RouteTable::compile(config.routes.iter().enumerate().map(|(i, route)| (&route.matcher, i)))
                });
                let Ok(request) = RequestHeader::build(asked.method.clone(), asked.path.as_bytes(), None) else {
                    continue;
                };
                let found = table.find(&asked.host, &asked.path, &asked.method, &request);
                // Another policy that answers the same is as good.
                let answers = |policies: &[PolicyConfig]| {
                    policies
                        .iter()
                        .flat_map(|one| one.config.answers())
                        .any(|one| (&one.host, &one.method, &one.path) == (&asked.host, &asked.method, &asked.path))
                };
                let comes = match found {
                    Found::Route(route, _) => {
                        let taken = config.routes.get(*route);
                        let is_public = taken.is_some_and(|route| route.public);
                        scope == Some(*route)
                            || taken.is_some_and(|route| answers(&route.policies))
                            || !is_public && (scope.is_none() || answers(&config.policies))
                    }
                    Found::WrongMethod(_) | Found::Ambiguous | Found::Nothing => false,
                };
                if !comes {
                    let way = [&at[..], &steps![i, policy.config.kind()], &asked.way].concat();
                    let (method, path) = (&asked.method, &asked.path);
                    let host = &asked.host;
                    let message = format!(
                        "this policy answers `{method} {path}` on `{host}`, but no route with it takes that: add one, with any upstream"
                    );
                    file.warning(&way, message);
                }
            }
        }
    }
}

/// So many routes without authentication are named one by one.
const MAX_OPEN: usize = 10;

/// Routes that are open to everyone, without saying that this is meant.
fn public(file: &mut File<'_>) {
    let config = file.config;
    // `anonymous` alone asks nobody, and a shadow lets everybody in.
    let asks = |policy: &PolicyConfig| policy.config.authenticates() && policy.config.kind() != "anonymous";
    let authenticates = |policies: &[PolicyConfig]| policies.iter().any(|one| one.mode == Mode::Enforce && asks(one));
    let every = authenticates(&config.policies);
    let mut open = 0;
    for (i, route) in config.routes.iter().enumerate() {
        let own = authenticates(&route.policies);
        let guarded = own || every && !route.public;
        if route.public && own {
            file.error(
                &steps!["routes", i, "public"],
                "a policy of this route finds out who is calling: it is not `public`",
            );
        }
        // Redirects lead to nothing that is to be guarded.
        if route.public || guarded || route.upstreams().next().is_none() {
            continue;
        }
        open += 1;
        if open <= MAX_OPEN {
            let message = "anyone may use this route, since no policy finds out who is calling: write `public: true` if that is meant";
            file.warning(&steps!["routes", i, "name"], message);
        }
    }
    if open > MAX_OPEN {
        let message = format!("{} more routes may be used by anyone, and do not say `public: true`", open - MAX_OPEN);
        file.warning(&steps!["routes"], message);
    }
}

/// A list with nothing in it would match everything, as if it were not there: a template that filled in nothing.
fn empty_lists(file: &mut File<'_>, i: usize, node: Option<&Node>) {
    let Some(matcher) = node.and_then(|route| route.entry("match")) else { return };
    for key in ["hosts", "methods"] {
        if matcher.node.entry(key).is_some_and(|list| list.node.child(0).is_none()) {
            let message =
                format!("the list is empty, which would match every request: remove `{key}` if that is meant");
            file.error(&steps!["routes", i, "match", key], message);
        }
    }
}

fn check_one(file: &mut File<'_>, i: usize, route: &Route, node: Option<&Node>) {
    empty_lists(file, i, node);
    if let Some(timeout) = route.timeout {
        file.takes_time(&steps!["routes", i, "timeout"], timeout);
    }
    web_socket(file, i, &route.web_socket);
    grpc_web(file, i, route);
    action(file, i, route);
    release::check(file, i, route);
    let template = template(&route.matcher);
    let params: Vec<&str> = template.iter().flat_map(|template| template.params()).collect();
    let redirect = route.redirect.iter().flat_map(|redirect| redirect.to.params());
    for name in redirect {
        unknown_param(file, &steps!["routes", i, "redirect", "to"], name, &params);
    }
    rewrite(file, i, route, &params);
    hygiene(file, i, route);
    file.policies(&route.policies, &steps!["routes", i, "policies"], Some(&params));
}

/// Exactly one of what answers.
fn action(file: &mut File<'_>, i: usize, route: &Route) {
    if let Some(upstream) = &route.upstream {
        file.upstream_exists(upstream, &steps!["routes", i, "upstream"]);
    }
    if route.redirect.is_some() && route.rewrite.is_some() && route.upstream.is_none() && route.split.is_none() {
        file.error(&steps!["routes", i, "rewrite"], "a redirect has no upstream that could see a new path");
    }
    let given = [
        ("upstream", route.upstream.is_some()),
        ("split", route.split.is_some()),
        ("redirect", route.redirect.is_some()),
    ];
    let mut given = given.iter().filter(|(_, given)| *given).map(|(key, _)| *key);
    match (given.next(), given.next()) {
        (Some(_), None) => {}
        (Some(first), Some(second)) => {
            file.error(&steps!["routes", i, second], format!("a route has either `{first}` or `{second}`"));
        }
        (None, _) => {
            let has = |key| file.tree.get(&steps!["routes", i]).is_some_and(|node| node.entry(key).is_some());
            if !["upstream", "split", "redirect"].into_iter().any(has) {
                file.error(&steps!["routes", i], "the route needs an `upstream` (or a `split` or a `redirect`)");
            }
        }
    }
}

/// A path that the route itself would refuse.
fn hygiene(file: &mut File<'_>, i: usize, route: &Route) {
    let (text, way) = match &route.matcher.path {
        None | Some(PathMatch::Kind(PathKind::Regex(_))) => return,
        Some(PathMatch::Plain(template)) => (template.text.as_str(), steps!["routes", i, "match", "path"].to_vec()),
        Some(PathMatch::Kind(PathKind::Prefix(prefix))) => {
            (prefix.as_str(), steps!["routes", i, "match", "path", "prefix"].to_vec())
        }
    };
    let broken = normalise(text).map(|normal| normal.broken).unwrap_or_default();
    for rule in broken.within(route.hygiene.refused()).iter() {
        let name = rule.name();
        file.error(&way, format!("{rule}, which the route refuses: it needs `hygiene: {{ {name}: allow }}`"));
    }
}

fn web_socket(file: &mut File<'_>, i: usize, limits: &WebSocket) {
    file.takes_time(&steps!["routes", i, "web_socket", "idle_timeout"], limits.idle_timeout);
    for (key, size) in [("max_frame", limits.max_frame), ("max_message", limits.max_message)] {
        if size.0 == 0 {
            file.error(&steps!["routes", i, "web_socket", key], "nothing could be said: a frame has at least 1B");
        }
    }
}

/// A route that translates gRPC-Web for an upstream that does not speak gRPC.
fn grpc_web(file: &mut File<'_>, i: usize, route: &Route) {
    let Some(at) = route.policies.iter().position(|policy| policy.config.kind() == "grpc_web") else { return };
    let found = route.upstreams().find_map(|name| {
        file.config.upstreams.get_key_value(name).filter(|(_, upstream)| upstream.protocol == Protocol::Http1)
    });
    if let Some((name, _)) = found {
        let message = format!("the upstream `{name}` is spoken to in HTTP/1.1, but gRPC needs `protocol: http2` there");
        file.error(&steps!["routes", i, "policies", at, "grpc_web"], message);
    }
}

fn unknown_param(file: &mut File<'_>, way: &[super::Step], name: &str, params: &[&str]) {
    if !params.contains(&name) {
        let place = file.tree.locate(way);
        let mut wrong = Diagnostic::error(place, format!("the path of the route has no parameter `{name}`"));
        wrong.help = nearest(name, params.iter().copied());
        file.found.push(wrong);
    }
}

fn template(matcher: &Match) -> Option<&Template> {
    match &matcher.path {
        Some(PathMatch::Plain(template)) => Some(template),
        Some(PathMatch::Kind(_)) | None => None,
    }
}

/// A prefix that no path of the route starts with, or a parameter that it does not have.
fn rewrite(file: &mut File<'_>, i: usize, route: &Route, params: &[&str]) {
    let (way, prefix) = match &route.rewrite {
        None => return,
        Some(Rewrite::Path(path)) => {
            for name in path.params() {
                unknown_param(file, &steps!["routes", i, "rewrite", "path"], name, params);
            }
            return;
        }
        Some(Rewrite::StripPrefix(prefix)) => (steps!["routes", i, "rewrite", "strip_prefix"].to_vec(), prefix),
        Some(Rewrite::ReplacePrefix(replace)) => {
            (steps!["routes", i, "rewrite", "replace_prefix", "from"].to_vec(), &replace.from)
        }
    };
    let fits = match &route.matcher.path {
        None => prefix.as_str() == "/",
        Some(PathMatch::Plain(template)) => {
            let literal: String = template
                .segments
                .iter()
                .map_while(|segment| match segment {
                    Segment::Literal(text) => Some(format!("/{text}")),
                    Segment::Param(_) | Segment::Rest(_) => None,
                })
                .collect();
            prefix.strip(&literal).is_some()
        }
        Some(PathMatch::Kind(PathKind::Prefix(path))) => prefix.strip(path.as_str()).is_some(),
        // What an expression matches is not known here; a path without the prefix stays as it is.
        Some(PathMatch::Kind(PathKind::Regex(_))) => true,
    };
    if !fits {
        file.error(&way, "not every path of the route starts with this prefix");
    }
}

/// The host of a group; `None` is any host.
type Host<'a> = Option<&'a HostPattern>;

/// What decides about a request besides host and path.
#[derive(PartialEq, Eq)]
struct Predicates<'a> {
    methods: Vec<&'a str>,
    others: String,
    count: usize,
}

impl<'a> Predicates<'a> {
    fn new(matcher: &'a Match) -> Self {
        let mut methods: Vec<&str> = matcher.methods.iter().map(crate::config::types::Method::as_str).collect();
        if methods.contains(&"GET") && !methods.contains(&"HEAD") {
            methods.push("HEAD");
        }
        methods.sort_unstable();
        methods.dedup();
        Self {
            count: usize::from(!methods.is_empty())
                + matcher.headers.len()
                + matcher.query.len()
                + usize::from(matcher.media_type.is_some()),
            methods,
            others: format!("{:?}{:?}{:?}", matcher.headers, matcher.query, matcher.media_type),
        }
    }

    /// Whether every request of `later` is one of `self`.
    fn cover(&self, later: &Self) -> bool {
        self.count == later.count
            && self.others == later.others
            && later.methods.iter().all(|method| self.methods.contains(method))
    }
}

fn unreachable(file: &mut File<'_>, nodes: &[&Node]) {
    let config = file.config;
    let mut groups: HashMap<(Host<'_>, String), Vec<(usize, Predicates<'_>)>> = HashMap::new();
    let mut covers: HashMap<(Host<'_>, String), usize> = HashMap::new();
    let mut roots: BTreeMap<Host<'_>, usize> = BTreeMap::new();
    // What stands in a `match` that is wrong in part is not what is meant.
    let whole: Vec<(usize, &Route)> = (config.routes.iter().enumerate())
        .filter(|(i, _)| {
            let written = nodes.get(*i).and_then(|route| route.entry("match"));
            written.is_none_or(|written| !written.node.dropped && !written.node.lacks_something())
        })
        .collect();
    for (i, route) in whole.iter().copied() {
        give_way();
        let plain =
            route.matcher.headers.is_empty() && route.matcher.query.is_empty() && route.matcher.media_type.is_none();
        for host in hosts(&route.matcher) {
            if plain && let Some(head) = head_of_rest(&route.matcher) {
                if head.is_empty() {
                    roots.entry(host).or_insert(i);
                }
                covers.entry((host, head)).or_insert(i);
            } else if plain && shape(&route.matcher) == "prefix /" {
                roots.entry(host).or_insert(i);
            }
        }
    }
    for (i, route) in whole {
        give_way();
        let mut wrong = None;
        for host in hosts(&route.matcher) {
            let group = groups.entry((host, shape(&route.matcher))).or_default();
            let mine = Predicates::new(&route.matcher);
            let twin = group.iter().find(|(_, earlier)| earlier.cover(&mine));
            if let Some((other, earlier)) = twin {
                wrong.get_or_insert((*other, earlier.methods == mine.methods, host));
            } else if let Some(other) = covered(&route.matcher, host, &covers, &roots) {
                wrong.get_or_insert((other, false, host));
            }
            group.push((i, mine));
        }
        if let Some((other, same, host)) = wrong {
            report(file, i, other, same, host);
        }
    }
}

fn report(file: &mut File<'_>, i: usize, other: usize, same: bool, host: Host<'_>) {
    let (Some(route), Some(first)) = (file.config.routes.get(i), file.config.routes.get(other)) else {
        return;
    };
    let at = host.map_or_else(String::new, |host| format!(" for host `{host}`"));
    let (mine, theirs) = (&route.name, &first.name);
    let message = if same {
        format!("the routes `{theirs}` and `{mine}` can never be told apart{at}")
    } else {
        format!("no request can reach the route `{mine}`{at}: `{theirs}` takes all of them")
    };
    let place = file.tree.locate(&steps!["routes", i, "name"]);
    let related = file.tree.locate(&steps!["routes", other, "name"]);
    file.found.push(
        Diagnostic::error(place, message)
            .related(related, "this one comes first")
            .help("give them different hosts, paths, methods, headers or query parameters, or remove one"),
    );
}

fn hosts(matcher: &Match) -> Vec<Host<'_>> {
    if matcher.hosts.is_empty() { vec![None] } else { matcher.hosts.iter().map(Some).collect() }
}

/// What tells two paths apart.
fn shape(matcher: &Match) -> String {
    match &matcher.path {
        None => "prefix /".into(),
        Some(PathMatch::Plain(template)) => format!("path {}", template.shape()),
        Some(PathMatch::Kind(PathKind::Prefix(prefix))) => format!("prefix {}", prefix.as_str()),
        Some(PathMatch::Kind(PathKind::Regex(regex))) => format!("regex {}", regex.text),
    }
}

/// `/a` for `/a/{rest...}`: such a template ranks above every prefix and expression below `/a/`.
fn head_of_rest(matcher: &Match) -> Option<String> {
    let template = template(matcher)?;
    let (last, head) = template.segments.split_last()?;
    if !matches!(last, Segment::Rest(_)) {
        return None;
    }
    head.iter()
        .map(|segment| match segment {
            Segment::Literal(text) => Some(format!("/{text}")),
            Segment::Param(_) | Segment::Rest(_) => None,
        })
        .collect()
}

/// The route that takes everything which this path could, by a path that ranks higher.
fn covered<'a>(
    matcher: &'a Match,
    host: Host<'a>,
    covers: &HashMap<(Host<'a>, String), usize>,
    roots: &BTreeMap<Host<'a>, usize>,
) -> Option<usize> {
    match &matcher.path {
        Some(PathMatch::Kind(PathKind::Regex(_))) => roots.get(&host).copied(),
        Some(PathMatch::Plain(_)) => None,
        None => covers.get(&(host, String::new())).copied(),
        Some(PathMatch::Kind(PathKind::Prefix(prefix))) => {
            // `/a/{rest...}` does not take `/a` itself, so only heads that are shorter than the prefix count.
            let path = prefix.as_str();
            let ends = path.match_indices('/').map(|(at, _)| path.get(..at).unwrap_or_default());
            ends.filter_map(|head| covers.get(&(host, head.to_owned()))).copied().next()
        }
    }
}

use std::cmp::Reverse;

use pingora::http::RequestHeader;
use proptest::prelude::*;

use super::*;
use crate::config::route::{HostPattern, PathKind, PathMatch, ValueMatch};

fn request(method: &str, path: &str, headers: &[(&str, &str)]) -> RequestHeader {
    let mut request = RequestHeader::build(method, path.as_bytes(), None).unwrap();
    for (name, value) in headers {
        request.append_header(name.to_string(), *value).unwrap();
    }
    request
}

fn matcher(hosts: &[&str], path: impl Into<Option<PathMatch>>, methods: &[&str]) -> Match {
    Match {
        hosts: hosts.iter().map(|host| host.parse().unwrap()).collect(),
        path: path.into(),
        methods: methods.iter().map(|method| method.parse().unwrap()).collect(),
        ..Match::default()
    }
}

fn plain(path: &str) -> PathMatch {
    PathMatch::Plain(path.parse().unwrap())
}

fn prefix(path: &str) -> PathMatch {
    PathMatch::Kind(PathKind::Prefix(path.parse().unwrap()))
}

fn regex(text: &str) -> PathMatch {
    PathMatch::Kind(PathKind::Regex(text.parse().unwrap()))
}

fn table(matchers: &[Match]) -> RouteTable<usize> {
    RouteTable::compile(matchers.iter().zip(0..))
}

fn found(table: &RouteTable<usize>, host: &str, path: &str) -> Option<usize> {
    match table.find(host, path, &Method::GET, &request("GET", path, &[])) {
        Found::Route(index, _) => Some(*index),
        Found::WrongMethod(_) | Found::Ambiguous | Found::Nothing => None,
    }
}

#[test]
fn the_most_specific_path_wins() {
    let table = table(&[
        matcher(&[], regex("/a/.*"), &[]),
        matcher(&[], prefix("/a"), &[]),
        matcher(&[], prefix("/a/b"), &[]),
        matcher(&[], plain("/a/{x}/c"), &[]),
        matcher(&[], plain("/a/b/{rest...}"), &[]),
        matcher(&[], plain("/a/b/c"), &[]),
        matcher(&[], regex("/z.*"), &[]),
    ]);
    for (path, route) in [
        ("/a/b/c", Some(5)),
        ("/a/x/c", Some(3)),
        ("/a/b/d", Some(4)),
        ("/a/b/", Some(4)),
        ("/a/b", Some(2)),
        ("/a", Some(1)),
        ("/a/", Some(1)),
        ("/a/x", Some(1)),
        ("/ab", None),
        ("/zz", Some(6)),
        ("/", None),
    ] {
        assert_eq!(found(&table, "h", path), route, "{path}");
    }
}

#[test]
fn the_most_specific_host_wins() {
    let table = table(&[
        matcher(&[], prefix("/"), &[]),
        matcher(&["*.example.com"], prefix("/"), &[]),
        matcher(&["*.api.example.com"], prefix("/"), &[]),
        matcher(&["a.api.example.com"], plain("/x"), &[]),
    ]);
    assert_eq!(found(&table, "a.api.example.com", "/x"), Some(3));
    assert_eq!(found(&table, "a.api.example.com", "/y"), Some(2));
    assert_eq!(found(&table, "api.example.com", "/"), Some(1));
    assert_eq!(found(&table, "example.com", "/"), Some(0));
}

#[test]
fn the_parameters_are_those_of_the_template_that_won() {
    let table = table(&[matcher(&[], plain("/a/{x}/c/{y}/z"), &[]), matcher(&[], plain("/a/{x}/{rest...}"), &[])]);
    let path = "/a/1/c/2/3";
    let Found::Route(1, params) = table.find("h", path, &Method::GET, &request("GET", path, &[])) else {
        panic!("the second template matches");
    };
    let texts: Vec<_> = params.iter().map(|range| path.get(range.clone()).unwrap()).collect();
    assert_eq!(texts, ["1", "c/2/3"]);
}

#[test]
fn a_wrong_method_is_not_passed_on_to_a_less_specific_path() {
    let table = table(&[
        matcher(&[], plain("/a"), &["GET"]),
        matcher(&[], plain("/a"), &["PUT"]),
        matcher(&[], prefix("/"), &[]),
    ]);
    let Found::WrongMethod(methods) = table.find("h", "/a", &Method::DELETE, &request("DELETE", "/a", &[])) else {
        panic!("DELETE is not allowed");
    };
    let names: Vec<_> = methods.iter().map(|method| method.as_str()).collect();
    assert_eq!(names, ["GET", "HEAD", "PUT"]);
    assert_eq!(table.find("h", "/a", &Method::HEAD, &request("HEAD", "/a", &[])), Found::Route(&0, Params::new()));
}

#[test]
fn more_predicates_win_and_what_can_be_read_in_two_ways_fits_no_route() {
    let mut with_header = matcher(&[], plain("/a"), &[]);
    with_header.headers.insert("x-role".parse().unwrap(), ValueMatch::Exact("admin".into()));
    let mut with_query = matcher(&[], plain("/a"), &[]);
    with_query.query.insert("all".into(), ValueMatch::Exact("1".into()));
    let table = table(&[matcher(&[], plain("/a"), &[]), with_header, with_query]);
    let ask = |target: &str, headers: &[(&str, &str)]| {
        let request = request("GET", target, headers);
        match table.find("h", "/a", &Method::GET, &request) {
            Found::Route(index, _) => Some(*index),
            Found::Ambiguous => None,
            Found::WrongMethod(_) | Found::Nothing => panic!("a route fits"),
        }
    };
    assert_eq!(ask("/a", &[("x-role", "admin")]), Some(1));
    assert_eq!(ask("/a", &[("x-role", "user")]), Some(0));
    assert_eq!(ask("/a?all=1", &[]), Some(2));
    assert_eq!(ask("/a?all=2", &[]), Some(0));
    assert_eq!(ask("/a", &[("x-role", "user"), ("x-role", "admin")]), None);
    assert_eq!(ask("/a", &[("x_role", "admin")]), None);
    assert_eq!(ask("/a?all=2&all=1", &[]), None);
    assert_eq!(ask("/a?all=2&%61ll=1", &[]), None);
}

// The naive matcher: looks at every route, one after the other, by the rules as documented.

fn naive(matchers: &[Match], host: &str, path: &str, request: &RequestHeader) -> Result<usize, Vec<String>> {
    let mut ranked: Vec<(_, usize)> =
        matchers.iter().enumerate().filter_map(|(i, one)| Some((rank(one, host, path)?, i))).collect();
    ranked.sort();
    naive_rest(matchers, &ranked, request)
}

fn naive_rest(matchers: &[Match], ranked: &[(Rank, usize)], request: &RequestHeader) -> Result<usize, Vec<String>> {
    let Some((best, _)) = ranked.first() else {
        return Err(Vec::new());
    };
    let (same, others): (Vec<_>, Vec<_>) = ranked.iter().cloned().partition(|(rank, _)| rank == best);
    let mut fitting: Vec<usize> = same.iter().map(|(_, i)| *i).filter(|i| fits(&matchers[*i], request)).collect();
    fitting.sort_by_key(|i| (Reverse(count(&matchers[*i])), *i));
    if let Some(i) = fitting.iter().find(|i| allows(&matchers[**i], request)) {
        return Ok(*i);
    }
    if fitting.is_empty() {
        return naive_rest(matchers, &others, request);
    }
    let mut all: Vec<String> = fitting.iter().flat_map(|i| methods(&matchers[*i])).collect();
    all.sort();
    all.dedup();
    Err(all)
}

/// Smaller is better: host, kind of path, then what decides within the kind.
type Rank = (Reverse<usize>, u8, Vec<u8>, Reverse<usize>, usize);

fn rank(one: &Match, host: &str, path: &str) -> Option<Rank> {
    let host =
        if one.hosts.is_empty() { 0 } else { one.hosts.iter().filter_map(|pattern| host_rank(pattern, host)).max()? };
    let (kind, segments, length, order) = match &one.path {
        None => (2, vec![], 0, 0),
        Some(PathMatch::Plain(template)) => {
            let shape = naive_template(&template.text, path)?;
            (u8::from(!template.is_exact()), shape, 0, 0)
        }
        Some(PathMatch::Kind(PathKind::Prefix(prefix))) => {
            let text = prefix.as_str().trim_end_matches('/');
            let below = path == text || path.starts_with(&format!("{text}/"));
            below.then_some((2, vec![], text.len(), 0))?
        }
        Some(PathMatch::Kind(PathKind::Regex(regex))) => {
            // The order of expressions is that of the file: the caller numbers them by their text.
            regex.regex.is_match(path).then_some((3, vec![], 0, EXPRESSIONS.iter().position(|e| *e == regex.text)?))?
        }
    };
    Some((Reverse(host), kind, segments, Reverse(length), order))
}

fn host_rank(pattern: &HostPattern, host: &str) -> Option<usize> {
    if pattern.wildcard {
        host.strip_suffix(&pattern.name)?.strip_suffix('.').filter(|head| !head.is_empty())?;
        Some(1 + pattern.name.len())
    } else {
        (pattern.name == host).then_some(1_000)
    }
}

/// For each segment: 0 for text, 1 for a parameter, 2 for the rest.
fn naive_template(template: &str, path: &str) -> Option<Vec<u8>> {
    let (mut theirs, mut mine) = (path.split('/').skip(1), template.split('/').skip(1));
    let mut shape = vec![];
    loop {
        match (mine.next(), theirs.next()) {
            (None, None) => return Some(shape),
            (Some(part), Some(_)) if part.ends_with("...}") => {
                shape.push(2);
                return Some(shape);
            }
            (Some(part), Some(text)) if part.starts_with('{') && !text.is_empty() => shape.push(1),
            (Some(part), Some(text)) if part == text => shape.push(0),
            _ => return None,
        }
    }
}

fn fits(one: &Match, request: &RequestHeader) -> bool {
    one.headers.iter().all(|(name, value)| {
        let sent: Vec<_> = request.headers.get_all(name.as_str()).iter().collect();
        matches!((value, sent.as_slice()), (ValueMatch::Exact(text), [only]) if *only == text.as_str())
    })
}

fn count(one: &Match) -> usize {
    usize::from(!one.methods.is_empty()) + one.headers.len()
}

fn methods(one: &Match) -> Vec<String> {
    let mut all: Vec<String> = one.methods.iter().map(|method| method.as_str().to_owned()).collect();
    if all.contains(&"GET".to_owned()) {
        all.push("HEAD".into());
    }
    all
}

fn allows(one: &Match, request: &RequestHeader) -> bool {
    one.methods.is_empty() || methods(one).contains(&request.method.to_string())
}

const EXPRESSIONS: [&str; 3] = ["/a.*", "/[ab]/.*", ".*b"];

fn any_path() -> impl Strategy<Value = Option<PathMatch>> {
    let segment = || prop_oneof!["a", "b", "ab"];
    let part = prop_oneof![3 => segment(), 1 => Just("{}".to_owned())];
    let template = (prop::collection::vec(part, 1..4), any::<bool>()).prop_map(|(parts, rest)| {
        let mut text = String::new();
        for (i, part) in parts.iter().enumerate() {
            text.push('/');
            text.push_str(&part.replace("{}", &format!("{{p{i}}}")));
        }
        if rest {
            text.push_str("/{rest...}");
        }
        Some(plain(&text))
    });
    let prefixes =
        prop::collection::vec(segment(), 0..3).prop_map(|parts| Some(prefix(&format!("/{}", parts.join("/")))));
    let expressions = prop::sample::select(EXPRESSIONS.to_vec()).prop_map(|text| Some(regex(text)));
    prop_oneof![4 => template, 2 => prefixes, 1 => expressions, 1 => Just(None)]
}

fn any_match() -> impl Strategy<Value = Match> {
    let hosts = prop::sample::subsequence(vec!["x.y.z", "*.y.z", "*.z", "y.z"], 0..3);
    let methods = prop::sample::subsequence(vec!["GET", "POST", "DELETE"], 0..3);
    let header = prop::option::of(prop_oneof!["1", "2"]);
    (hosts, any_path(), methods, header).prop_map(|(hosts, path, methods, header)| {
        let mut one = matcher(&hosts, path, &methods);
        if let Some(value) = header {
            one.headers.insert("x-v".parse().unwrap(), ValueMatch::Exact(value));
        }
        one
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn the_table_finds_what_a_naive_matcher_finds(
        mut matchers in prop::collection::vec(any_match(), 0..24),
        host in prop::sample::select(vec!["x.y.z", "y.z", "q.y.z", "q.z", "z", "other"]),
        path in "(/(a|b|ab|c)?){1,4}",
        method in prop::sample::select(vec!["GET", "HEAD", "POST", "PATCH"]),
        header in prop::option::of(prop::sample::select(vec!["1", "2", "3"])),
    ) {
        // Expressions rank by their order in the file; sorting by it keeps the naive rank simple.
        matchers.sort_by_key(|one| match &one.path {
            Some(PathMatch::Kind(PathKind::Regex(regex))) => EXPRESSIONS.iter().position(|e| *e == regex.text),
            _ => None,
        });
        let path = path::normalise(&path).unwrap().path.into_owned();
        let headers: Vec<_> = header.iter().map(|value| ("x-v", *value)).collect();
        let request = request(method, &path, &headers);
        let table = table(&matchers);
        let mine = match table.find(host, &path, &request.method, &request) {
            Found::Route(index, _) => Ok(*index),
            Found::WrongMethod(methods) => Err(methods.iter().map(ToString::to_string).collect()),
            Found::Nothing => Err(Vec::new()),
            Found::Ambiguous => unreachable!("no header comes twice"),
        };
        prop_assert_eq!(mine, naive(&matchers, host, &path, &request));
    }
}

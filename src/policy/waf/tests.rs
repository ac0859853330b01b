//! The engine as a whole, over requests without sockets.

use http::HeaderMap;

use super::*;

fn run(set: &RuleSet, target: &str, headers: &[(&'static str, &str)]) -> (Option<u32>, State) {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(*name, value.parse().unwrap());
    }
    let request = Request {
        method: "GET",
        target,
        protocol: "HTTP/1.1",
        headers: &map,
        client: [192, 0, 2, 1].into(),
        host: "a.example",
        id: "1",
    };
    let mut state = State::default();
    let mut facts = Facts::of_header(&request);
    facts.add_nothing();
    let refused = Run::new(set, &facts, &mut state).phase(Phase::Header);
    let refused = refused.or_else(|| Run::new(set, &facts, &mut state).phase(Phase::Body));
    (refused, state)
}

#[test]
fn debug() {
    let rules = r#"SecAction "id:900000,phase:1,nolog,pass,t:none,setvar:tx.paranoia_level=4""#.to_owned();
    let set = RuleSet::read(&["/tmp/waf/load.conf".into()], &[rules]).unwrap();
    let (refused, state) = run(&set, "/?a=rO0ABQ", &[("host", "a"), ("user-agent", "x"), ("accept", "*/*")]);
    eprintln!("{refused:?} {:?}", state.hits);
    eprintln!("{:?}", state.tx);
    panic!();
}

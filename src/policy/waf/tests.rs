//! The engine as a whole, over requests without sockets.

use std::path::PathBuf;

use http::HeaderMap;

use super::*;

/// What a set of rules finds in a GET for `target` with these headers: the rule that refuses, and all that held.
fn run(set: &RuleSet, target: &str, headers: &[(&'static str, &str)]) -> (Option<u32>, Vec<String>) {
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
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut refused = runtime.block_on(Run::new(set, &facts, &mut state).phase(Phase::Header));
    if refused.is_none() {
        refused = runtime.block_on(Run::new(set, &facts, &mut state).phase(Phase::Body));
    }
    (refused, state.hits.into_iter().map(|hit| format!("{} {}", hit.rule, hit.at)).collect())
}

fn set(rules: &str) -> RuleSet {
    RuleSet::read(rules, &[]).unwrap()
}

#[track_caller]
fn held(rules: &str, target: &str, wanted: &[&str]) {
    assert_eq!(run(&set(rules), target, &[("x-a", "1")]).1, wanted, "{target}");
}

#[test]
fn scores_add_up_and_decide() {
    let rules = r#"
SecAction "id:1,phase:1,nolog,pass,setvar:tx.limit=5,setvar:'tx.step=3'"
SecRule ARGS "@rx evil" "id:2,phase:2,pass,setvar:tx.score=+%{tx.step},setvar:'tx.seen_%{MATCHED_VAR_NAME}=%{MATCHED_VAR}'"
SecRule TX:SCORE "@ge %{tx.limit}" "id:3,phase:2,deny"
SecRule TX:/^seen_/ "@streq eviler" "id:4,phase:2,pass"
"#;
    let set = set(rules);
    assert_eq!(run(&set, "/?a=good", &[]).0, None);
    assert_eq!(run(&set, "/?a=evil", &[]).0, None);
    assert_eq!(run(&set, "/?a=evil&b=evil", &[]), (Some(3), vec!["2 ARGS:a".into(), "3 TX:score".into()]));
    held(rules, "/?q=eviler", &["2 ARGS:q", "4 TX:seen_args:q"]);
}

#[test]
fn a_chain_holds_as_a_whole_and_the_next_link_sees_what_matched() {
    let rules = r#"
SecRule ARGS "@rx ^(\w+)-(\w+)$" "id:1,phase:2,deny,capture,chain"
  SecRule TX:1 "@streq %{tx.2}" "chain"
  SecRule MATCHED_VARS_NAMES "!@streq ARGS:free" "t:none"
"#;
    held(rules, "/?a=x-x", &["1 ARGS:a"]);
    held(rules, "/?a=x-y", &[]);
    assert_eq!(run(&set(rules), "/?a=x-x", &[]).0, Some(1));
}

#[test]
fn jumps_skip_what_they_say() {
    let rules = r#"
SecRule ARGS:go "@streq far" "id:1,phase:2,pass,nolog,skipAfter:END"
SecRule ARGS:go "@streq near" "id:2,phase:2,pass,nolog,skip:1"
SecRule ARGS "@rx ." "id:3,phase:2,pass"
SecAction "id:9,phase:1,pass,nolog"
SecRule ARGS "@rx ." "id:4,phase:2,pass"
SecMarker END
SecRule ARGS "@rx ." "id:5,phase:2,pass"
"#;
    held(rules, "/?go=on", &["3 ARGS:go", "4 ARGS:go", "5 ARGS:go"]);
    held(rules, "/?go=near", &["4 ARGS:go", "5 ARGS:go"]);
    held(rules, "/?go=far", &["5 ARGS:go"]);
}

#[test]
fn exceptions_take_out_rules_and_targets_in_the_file_and_while_rules_run() {
    let rules = r#"
SecRule ARGS:mode "@streq quiet" "id:1,phase:1,pass,nolog,ctl:ruleRemoveById=10-11,ctl:ruleRemoveTargetByTag=attack;ARGS:text"
SecRule ARGS:mode "@streq off" "id:2,phase:1,pass,nolog,ctl:ruleEngine=Off"
SecRule ARGS:mode "@streq let" "id:3,phase:1,allow,nolog"
SecRule ARGS:mode "@streq watch" "id:4,phase:1,pass,nolog,ctl:ruleEngine=DetectionOnly"
SecRule ARGS "@rx evil" "id:10,phase:2,pass"
SecRule ARGS "@rx evil" "id:12,phase:2,deny,tag:attack"
SecRule ARGS "@rx evil" "id:20,phase:2,pass"
SecRule ARGS "@rx evil" "id:21,phase:2,pass,tag:gone"
SecRuleRemoveById 20
SecRuleRemoveByTag gone
SecRuleUpdateTargetById 12 "!ARGS:/^free/"
"#;
    held(rules, "/?a=evil", &["10 ARGS:a", "12 ARGS:a"]);
    held(rules, "/?free_text=evil", &["10 ARGS:free_text"]);
    held(rules, "/?mode=quiet&text=evil", &[]);
    held(rules, "/?mode=quiet&a=evil", &["12 ARGS:a"]);
    held(rules, "/?mode=off&a=evil", &[]);
    held(rules, "/?mode=let&a=evil", &[]);
    let watched = run(&set(rules), "/?mode=watch&a=evil", &[]);
    assert_eq!(watched, (None, vec!["10 ARGS:a".into(), "12 ARGS:a".into()]));
}

#[test]
fn defaults_hold_for_rules_that_say_nothing_else() {
    let rules = r#"
SecDefaultAction "phase:2,nolog,deny,t:lowercase"
SecRule ARGS "@streq evil" "id:1,phase:2,log"
SecRule ARGS "@streq Evil" "id:2,phase:2,block,t:none"
"#;
    assert_eq!(run(&set(rules), "/?a=EVIL", &[]), (Some(1), vec!["1 ARGS:a".into()]));
    let second = rules.replace("@streq evil", "@streq no");
    assert_eq!(run(&set(&second), "/?a=Evil", &[]), (Some(2), vec![]));
    assert_eq!(run(&set(&second), "/?a=EVIL", &[]).0, None);
}

#[test]
fn counts_and_single_steps_are_what_they_say() {
    held("SecRule &ARGS \"@gt 1\" \"id:1,phase:2,pass\"", "/?a=1&b=2", &["1 ARGS"]);
    held("SecRule &REQUEST_HEADERS:X-A \"@eq 1\" \"id:1,phase:1,pass\"", "/", &["1 REQUEST_HEADERS:x-a"]);
    held("SecRule &REQUEST_HEADERS:X-B \"@eq 0\" \"id:1,phase:1,pass\"", "/", &["1 REQUEST_HEADERS:x-b"]);
    let each = "SecRule ARGS \"@streq a%20b\" \"id:1,phase:2,pass,multiMatch,t:none,t:lowercase,t:urlDecode\"";
    held(each, "/?q=A%2520B", &["1 ARGS:q"]);
    held(&each.replace("multiMatch,", ""), "/?q=A%2520B", &[]);
    held("SecRule REQUEST_FILENAME \"@streq /a b+\" \"id:1,phase:1,pass\"", "/a%20b+?c", &["1 REQUEST_FILENAME"]);
    held("SecRule REQUEST_BASENAME \"@streq b.php\" \"id:1,phase:1,pass\"", "/a/b.php?/c", &["1 REQUEST_BASENAME"]);
    held("SecRule REQUEST_LINE \"@streq GET /?a HTTP/1.1\" \"id:1,phase:1,pass\"", "/?a", &["1 REQUEST_LINE"]);
}

#[test]
fn what_the_query_and_the_body_have_is_one_collection() {
    let missing = "SecRule &ARGS:token \"@eq 0\" \"id:1,phase:2,deny\"";
    assert_eq!(run(&set(missing), "/?token=a", &[]).0, None);
    assert_eq!(run(&set(missing), "/?b=a", &[]).0, Some(1));
    let except = "SecAction \"id:2,phase:1,nolog,pass,ctl:ruleRemoveTargetById=1;ARGS:x\"\n\
        SecRule &ARGS:x \"@gt 0\" \"id:1,phase:2,deny\"";
    assert_eq!(run(&set(except), "/?x=1", &[]).0, None);
}

#[test]
fn targets_behind_xml_are_there_and_operators_are_known_in_any_case() {
    let rules = "SecRule XML:/*|ARGS|REQUEST_HEADERS:/^x-/ \"@Rx evil(?:er)?word\" \"id:1,phase:2,pass\"";
    held(rules, "/?a=evilword", &["1 ARGS:a"]);
    assert_eq!(run(&set(rules), "/", &[("x-b", "evilword")]).1, ["1 REQUEST_HEADERS:x-b"]);
    let without = "SecRule ARGS|XML:/*|!ARGS:/^safe/ \"@RX evilword\" \"id:1,phase:2,pass\"";
    held(without, "/?safe1=evilword", &[]);
    held(without, "/?a=evilword", &["1 ARGS:a"]);
}

#[test]
fn an_exception_in_a_chain_holds_when_the_chain_does() {
    let rules = r#"
SecRule REQUEST_URI "@rx ." "id:1,phase:1,pass,nolog,chain,ctl:ruleRemoveById=2"
  SecRule REMOTE_ADDR "@ipMatch 198.51.100.0/24"
SecRule ARGS "@rx evil" "id:2,phase:2,deny"
"#;
    assert_eq!(run(&set(rules), "/?a=evil", &[]).0, Some(2));
    assert_eq!(run(&set(&rules.replace("198.51.100", "192.0.2")), "/?a=evil", &[]).0, None);
    let tags = "SecRule ARGS \"@rx evil\" \"id:2,phase:2,deny,tag:attack-sqli\"\nSecRuleRemoveByTag attack";
    assert_eq!(run(&set(tags), "/?a=evil", &[]).0, Some(2), "another tag");
}

#[test]
fn names_are_whole_for_rules_and_what_is_no_name_is_not_in_the_log() {
    let long = "k".repeat(70);
    let rules = "SecRule ARGS_NAMES \"@rx ^k\" \"id:1,phase:2,pass,nolog,setvar:'tx.n_%{MATCHED_VAR_NAME}=+1'\"\n\
        SecRule TX:/^n_/ \"@gt 1\" \"id:2,phase:2,deny\"";
    assert_eq!(run(&set(rules), &format!("/?{long}a=1&{long}b=1"), &[]).0, None);
    let rules = "SecRule ARGS_NAMES|ARGS \"@rx union\" \"id:1,phase:2,pass\"";
    held(rules, "/?{\"password\":\"hunter2\",union=1", &["1 ARGS_NAMES"]);
    held(rules, "/?a[0].b-c=union", &["1 ARGS:a[0].b-c"]);
}

#[test]
fn names_that_rules_keep_do_not_get_lost() {
    let rules = r#"
SecRule ARGS "@rx ." "id:1,phase:2,pass,nolog,setvar:'tx.a_%{MATCHED_VAR_NAME}=1',setvar:'tx.b_%{MATCHED_VAR_NAME}=1'"
SecRule ARGS "@rx ^(evil)" "id:2,phase:2,pass,nolog,capture,setvar:'tx.found=%{tx.1}'"
SecRule TX:FOUND "@streq evil" "id:3,phase:2,deny"
"#;
    let target = format!("/?{}&x=evil", (0..999).map(|n| format!("a{n}=1")).collect::<Vec<_>>().join("&"));
    assert_eq!(run(&set(rules), &target, &[]).0, Some(3));
}

/// The Core Rule Set, as `tests/run setup` fetches it.
fn core_rule_set(settings: &str) -> RuleSet {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/tools/coreruleset");
    let files = [folder.join("crs-setup.conf.example"), folder.join("rules/*.conf")];
    RuleSet::read(settings, &files).unwrap_or_else(|error| panic!("{error}; `tests/run setup` fetches it"))
}

/// What people write who attack nobody.
const HARMLESS: &str = include_str!("harmless.txt");

#[test]
fn what_attacks_nobody_is_refused_as_seldom_as_is_written_here() {
    let set = core_rule_set("");
    let lines: Vec<&str> = HARMLESS.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    let refused: Vec<_> = lines
        .iter()
        .filter_map(|line| {
            let target = format!("/?text={}", escape(line));
            let (refused, held) =
                run(&set, &target, &[("host", "a.example"), ("user-agent", "Mozilla/5.0"), ("accept", "*/*")]);
            refused.map(|_| (*line, held))
        })
        .collect();
    // Shells, SQL and functions as they are; nginx with libmodsecurity refuses the same eight.
    let wanted = [
        ("The union of workers", "942270"),
        ("**bold** and *italic*", "933210"),
        ("SELECT name FROM users", "942100"),
        ("grep -r", "932150"),
        ("ls -la && cd ..", "932150"),
        ("sudo apt-get", "932150"),
        ("ping 8.8.8.8", "932150"),
        ("f(x) = ", "933210"),
    ];
    assert_eq!((refused.len(), lines.len()), (wanted.len(), 92), "{refused:#?}");
    for ((line, held), (start, rule)) in refused.iter().zip(wanted) {
        assert!(line.starts_with(start) && held.iter().any(|hit| hit.starts_with(rule)), "{line}: {held:?}");
    }
}

fn escape(text: &str) -> String {
    text.bytes().flat_map(|byte| ['%'.to_string(), hex::encode([byte])]).collect()
}

#[test]
fn looking_for_texts_first_changes_nothing() {
    let mut with = core_rule_set("SecAction \"id:900000,phase:1,pass,nolog,setvar:tx.paranoia_level=4\"");
    let without = core_rule_set("SecAction \"id:900000,phase:1,pass,nolog,setvar:tx.paranoia_level=4\"");
    let slots = with.without_filters();
    assert!(slots > 100, "{slots} patterns need a text");
    let attacks = [
        "1' OR '1'='1",
        "<script>alert(1)</script>",
        "../../etc/passwd",
        "; cat /etc/passwd",
        "${jndi:ldap://a/b}",
        "1 UNION ALL SELECT a FROM b",
        "<?php system('id');",
        "java.lang.Runtime",
        "<svg onload=alert(1)>",
        "sleep(10)",
    ];
    for text in HARMLESS.lines().chain(attacks) {
        for target in [format!("/?q={}", escape(text)), format!("/?{}=1", escape(text))] {
            assert_eq!(
                run(&with, &target, &[("cookie", "a=b")]),
                run(&without, &target, &[("cookie", "a=b")]),
                "{text}"
            );
        }
    }
}

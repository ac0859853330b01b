use http::HeaderMap;
use proptest::prelude::*;

use super::*;

fn peers(all: &[&str]) -> Peers {
    Peers::new(&all.iter().map(|one| one.parse().unwrap()).collect::<Vec<_>>())
}

fn headers(name: &'static str, values: &[&[u8]]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for value in values {
        headers.append(name, HeaderValue::from_bytes(value).unwrap());
    }
    headers
}

/// All hops, the last one first, with `10.0.0.0/8` and `fd00::/8` trusted.
fn hops(by: ForwardedBy, values: &[&str]) -> Vec<String> {
    let name = if by == ForwardedBy::Forwarded { "forwarded" } else { "x-forwarded-for" };
    let values: Vec<_> = values.iter().map(|value| value.as_bytes()).collect();
    let told = Told::read(by, &headers(name, &values), &peers(&["10.0.0.0/8", "fd00::/8"]));
    told.hops.iter().map(ToString::to_string).collect()
}

fn x_forwarded_for(values: &[&str]) -> Vec<String> {
    hops(ForwardedBy::XForwardedFor, values)
}

fn forwarded(values: &[&str]) -> Vec<String> {
    hops(ForwardedBy::Forwarded, values)
}

const NONE: [&str; 0] = [];

#[test]
fn the_right_most_hop_that_is_not_trusted_is_the_client() {
    assert_eq!(x_forwarded_for(&["192.0.2.7"]), ["192.0.2.7"]);
    assert_eq!(x_forwarded_for(&["203.0.113.1, 192.0.2.7"]), ["192.0.2.7"]);
    assert_eq!(
        x_forwarded_for(&["203.0.113.1, 192.0.2.7,10.0.0.2 ,\t10.0.0.1"]),
        ["10.0.0.1", "10.0.0.2", "192.0.2.7"]
    );
    // Lines are one list, in their order.
    assert_eq!(x_forwarded_for(&["203.0.113.1", "192.0.2.7", "10.0.0.1"]), ["10.0.0.1", "192.0.2.7"]);
    // If all are trusted, it is the first of them.
    assert_eq!(x_forwarded_for(&["10.0.0.3, 10.0.0.2"]), ["10.0.0.2", "10.0.0.3"]);
    assert_eq!(x_forwarded_for(&[]), NONE);
    assert_eq!(x_forwarded_for(&["", " , ,", "192.0.2.7, ,"]), ["192.0.2.7"]);
}

#[test]
fn addresses_come_with_ports_brackets_and_zones() {
    for (entry, address) in [
        ("192.0.2.7:1234", "192.0.2.7"),
        ("2001:db8::7", "2001:db8::7"),
        ("2001:DB8:0::7", "2001:db8::7"),
        ("[2001:db8::7]", "2001:db8::7"),
        ("[2001:db8::7]:65535", "2001:db8::7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("[::ffff:c000:207]:1", "192.0.2.7"),
        ("fe80::1%eth0", "fe80::1"),
        ("[fe80::1%25eth0.1]:80", "fe80::1"),
        ("[fe80::1%eth-0]:80", "fe80::1"),
    ] {
        assert_eq!(x_forwarded_for(&[entry]), [address], "{entry}");
    }
}

#[test]
fn what_is_no_address_stops_the_walk_at_the_hop_that_said_it() {
    for garbage in [
        "unknown",
        "_hidden",
        "a",
        "192.0.2",
        "192.0.2.7.1",
        "192.0.2.07",
        "192.0.2.7:",
        "192.0.2.7:65536",
        "192.0.2.7:+1",
        "192.0.2.7:123456",
        "192.0.2.7 1",
        "\"192.0.2.7\"",
        "[192.0.2.7]",
        "[::1",
        "::1]",
        "[::1]80",
        "[]",
        "::1%",
        "::1% a",
        "%eth0",
        "for=192.0.2.7",
        "192.0.2.7;proto=http",
        "\u{fc}",
        "10.0.0.0/8",
        "http://192.0.2.7",
    ] {
        assert_eq!(x_forwarded_for(&[garbage]), NONE, "{garbage}");
        assert_eq!(x_forwarded_for(&[&format!("192.0.2.1, {garbage}, 10.0.0.1")]), ["10.0.0.1"], "{garbage}");
        // To the left of the client it is nobody's concern.
        assert_eq!(
            x_forwarded_for(&[&format!("{garbage}, 192.0.2.7, 10.0.0.1")]),
            ["10.0.0.1", "192.0.2.7"],
            "{garbage}"
        );
    }
}

#[test]
fn a_thousand_entries_are_walked() {
    let trusted = vec!["10.1.2.3"; 1000].join(", ");
    assert_eq!(x_forwarded_for(&[&trusted]).len(), 1000);
    let all = format!("192.0.2.7, {trusted}");
    assert_eq!(x_forwarded_for(&[&all]).last().map(String::as_str), Some("192.0.2.7"));
    let strangers = vec!["192.0.2.1"; 1000].join(", ");
    assert_eq!(x_forwarded_for(&[&format!("{strangers}, 192.0.2.7, 10.0.0.1")]), ["10.0.0.1", "192.0.2.7"]);
}

#[test]
fn the_elements_of_forwarded_are_read() {
    for (value, wanted) in [
        ("for=192.0.2.7", &["192.0.2.7"][..]),
        ("For=\"[2001:db8::7]:4711\"", &["2001:db8::7"]),
        ("for=[2001:db8::7]", &["2001:db8::7"]),
        ("for=192.0.2.7:80", &["192.0.2.7"]),
        ("for=\"192.0.2.7:_port\"", &["192.0.2.7"]),
        ("for=192.0.2.7; proto=http;by=203.0.113.43;", &["192.0.2.7"]),
        ("proto=http ; for = 192.0.2.7", &[]),
        ("by=10.0.0.9;host=\"a,b;\\\"for=1.1.1.1\";for=192.0.2.7", &["192.0.2.7"]),
        ("for=203.0.113.1, for=192.0.2.7;host=\"x, for=1.2.3.4\", for=10.0.0.1", &["10.0.0.1", "192.0.2.7"]),
        ("for=\"\\1\\9\\2.0.2.7\"", &["192.0.2.7"]),
        ("for=unknown", &[]),
        ("for=_hidden, for=10.0.0.1", &["10.0.0.1"]),
        ("for=\"_SEVKISEK\"", &[]),
        ("proto=https", &[]),
        ("192.0.2.7", &[]),
        ("for=192.0.2.7;for=192.0.2.8", &[]),
        ("for=\"2001:db8::7\"", &[]),
        ("for=\"192.0.2.7", &[]),
        ("for=192.0.2.7\"", &[]),
        ("for=\"192.0.2.7\"x", &[]),
        ("=192.0.2.7", &[]),
        ("for=", &[]),
        (",, for=192.0.2.7,", &["192.0.2.7"]),
    ] {
        assert_eq!(forwarded(&[value]), wanted, "{value}");
    }
    assert_eq!(forwarded(&["for=192.0.2.7", "for=10.0.0.1"]), ["10.0.0.1", "192.0.2.7"]);
}

#[test]
fn a_quotation_mark_that_a_client_left_open_hides_nothing() {
    for left in ["for=\"", "\"", "for=\"\\", "a=\"b\";\"", "for=\"x\\\"", "\\\"", "for=\"a\"\"", "\"\\\\\"\""] {
        assert_eq!(forwarded(&[&format!("{left}, for=192.0.2.7, for=10.0.0.1")]), ["10.0.0.1", "192.0.2.7"], "{left}");
        let quoted = format!("{left}, for=\"192.0.2.7:1\";host=\"a\\\"b\"");
        assert_eq!(forwarded(&[&quoted]), ["192.0.2.7"], "{left}");
    }
}

#[test]
fn scheme_host_and_port_are_taken_if_they_are_there_once_and_valid() {
    let read = |more: &[(&'static str, &str)]| {
        let mut headers = headers("x-forwarded-for", &[b"192.0.2.7"]);
        for (name, value) in more {
            headers.append(*name, value.parse().unwrap());
        }
        let told = Told::read(ForwardedBy::XForwardedFor, &headers, &peers(&["10.0.0.0/8"]));
        let text = |value: Option<HeaderValue>| value.map(|value| value.to_str().unwrap().to_owned());
        (told.secure, text(told.host), text(told.port))
    };
    let all = [("x-forwarded-proto", "HTTPS"), ("x-forwarded-host", "a.example:8443"), ("x-forwarded-port", "8443")];
    assert_eq!(read(&all), (Some(true), Some("a.example:8443".into()), Some("8443".into())));
    assert_eq!(read(&[("x-forwarded-proto", "http")]).0, Some(false));
    let wrong = [("x-forwarded-proto", "https, http"), ("x-forwarded-host", "a/b"), ("x-forwarded-port", "+80")];
    assert_eq!(read(&wrong), (None, None, None));
    let twice: Vec<_> = all.into_iter().chain(all).collect();
    assert_eq!(read(&twice), (None, None, None));
}

#[test]
fn forwarded_says_scheme_and_host_of_the_client() {
    let read = |value: &str| {
        let headers = headers("forwarded", &[value.as_bytes()]);
        let told = Told::read(ForwardedBy::Forwarded, &headers, &peers(&["10.0.0.0/8"]));
        (told.secure, told.host.map(|host| host.to_str().unwrap().to_owned()))
    };
    let two = "for=192.0.2.7;proto=https;host=\"a.example:1\", for=10.0.0.1;proto=http;host=internal";
    assert_eq!(read(two), (Some(true), Some("a.example:1".into())));
    assert_eq!(read("for=192.0.2.7;proto=gopher;host=\"a/b\""), (None, None));
    // What stands beside a hop that is unknown is not believed either.
    assert_eq!(read("for=unknown;proto=https;host=evil"), (None, None));
}

#[test]
fn what_goes_on_begins_with_the_client() {
    let value = |values: &[&[u8]]| {
        let told = Told::read(ForwardedBy::XForwardedFor, &headers("x-forwarded-for", values), &peers(&["10.0.0.0/8"]));
        told.for_value(&HeaderValue::from_static("10.0.0.9")).to_str().unwrap().to_owned()
    };
    assert_eq!(value(&[b"evil, 203.0.113.1, 192.0.2.7:80, 10.0.0.1"]), "192.0.2.7, 10.0.0.1, 10.0.0.9");
    assert_eq!(value(&[b"evil"]), "10.0.0.9");
    assert_eq!(value(&[]), "10.0.0.9");
}

proptest! {
    #[test]
    fn what_stands_left_of_the_client_changes_nothing(
        left in "[ -~]{0,40}",
        by in prop_oneof![Just(ForwardedBy::XForwardedFor), Just(ForwardedBy::Forwarded)],
        proxies in 0_usize..4,
    ) {
        let (name, prefix) = match by {
            ForwardedBy::XForwardedFor => ("x-forwarded-for", ""),
            ForwardedBy::Forwarded => ("forwarded", "for="),
        };
        let mut right = format!("{prefix}192.0.2.7");
        for _ in 0..proxies {
            right.extend([", ", prefix, "10.0.0.1"]);
        }
        let trusted = peers(&["10.0.0.0/8"]);
        let alone = Told::read(by, &headers(name, &[right.as_bytes()]), &trusted);
        let line = format!("{left},{right}");
        prop_assert_eq!(&Told::read(by, &headers(name, &[line.as_bytes()]), &trusted), &alone);
        prop_assert_eq!(&Told::read(by, &headers(name, &[left.as_bytes(), right.as_bytes()]), &trusted), &alone);
        prop_assert_eq!(alone.client(), "192.0.2.7".parse().ok());
    }

    #[test]
    fn whatever_proxies_say_all_hops_before_the_client_are_trusted(value in prop::collection::vec(prop_oneof![32_u8..127, 128_u8..=255], 0..200)) {
        let trusted = peers(&["10.0.0.0/8", "fd00::/8"]);
        for (by, name) in [(ForwardedBy::XForwardedFor, "x-forwarded-for"), (ForwardedBy::Forwarded, "forwarded")] {
            let told = Told::read(by, &headers(name, &[&value]), &trusted);
            if let Some((_, before)) = told.hops.split_last() {
                prop_assert!(before.iter().all(|hop| trusted.contains(Some(*hop))));
            }
        }
    }
}

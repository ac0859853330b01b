//! Connections to endpoints: kept, not kept, and never with somebody else's bytes on them.

use std::{
    io::{Read, Write},
    net::TcpListener,
    time::{Duration, Instant},
};

use super::{config, gateway};
use crate::support::{Bare, Gateway, Reply, Upstream, eventually, read_head, request};

/// One worker, so that there is one pool; and nothing is tried again.
fn strict(up: std::net::SocketAddr, settings: &str) -> Gateway {
    Gateway::start(&format!("workers: 1\n{}", config(&[up], &format!("retries: {{ attempts: 0 }}{settings}"))))
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

#[test]
fn requests_in_a_row_use_one_connection_whoever_sends_them() {
    let up = Upstream::named("up");
    let gateway = strict(up.address(), "");
    let mut client = gateway.client();
    for _ in 0..30 {
        assert_eq!(client.get("/").text(), "up");
        assert_eq!(gateway.send("POST", "/", &[("Content-Length", "0")]).text(), "up");
    }
    assert_eq!((up.connections(), up.seen().len()), (1, 60));
}

#[test]
fn a_connection_is_used_again_after_answers_of_every_kind() {
    let up = Upstream::start(|request| match request.target.as_str() {
        "/chunked" => Reply::raw_open("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n"),
        "/204" => Reply::new(204, ""),
        "/304" => Reply::raw_open("HTTP/1.1 304 Not Modified\r\nContent-Length: 500\r\nETag: \"x\"\r\n\r\n"),
        "/500" => Reply::new(500, "failed"),
        "/103" => Reply::raw_open(format!("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n{}", ok("late"))),
        _ => Reply::ok("up"),
    });
    let gateway = strict(up.address(), "");
    let mut client = gateway.client();
    for (method, path, status, body) in [
        ("GET", "/chunked", 200, "ab"),
        ("GET", "/204", 204, ""),
        ("GET", "/304", 304, ""),
        ("HEAD", "/", 200, ""),
        ("GET", "/500", 500, "failed"),
        ("GET", "/103", 200, "late"),
        ("GET", "/", 200, "up"),
    ] {
        client.write(request(method, path, &[]).as_bytes());
        let answer = client.read_answer_to(method);
        assert_eq!((answer.status, answer.text().as_str()), (status, body), "{method} {path}");
    }
    assert_eq!(up.connections(), 1);
}

#[test]
fn a_connection_that_the_upstream_closed_meanwhile_costs_no_request() {
    // One answer for each connection, without a word about the end that follows at once.
    let up = Bare::start(|stream, _| {
        if read_head(stream).is_some() {
            let _ = stream.write_all(ok("up").as_bytes());
        }
    });
    let gateway = strict(up.address(), "");
    let mut client = gateway.client();
    for i in 0..300 {
        let answer = client.get("/");
        assert_eq!((answer.status, answer.text().as_str()), (200, "up"), "request {i}");
    }
    assert!(up.connections() >= 300);
}

#[test]
fn a_connection_that_is_closed_while_the_request_is_on_its_way_costs_no_get() {
    // The second request of each connection is read, and then the connection is reset.
    let up = Bare::start(|stream, _| {
        if read_head(stream).is_some() {
            let _ = stream.write_all(ok("up").as_bytes());
            let _ = stream.read(&mut [0; 5]);
        }
    });
    let gateway = strict(up.address(), "");
    let mut client = gateway.client();
    for i in 0..50 {
        let answer = client.get("/");
        assert_eq!((answer.status, answer.text().as_str()), (200, "up"), "request {i}");
    }
}

#[test]
fn an_endpoint_that_dies_costs_no_get_whatever_connections_it_leaves_behind() {
    // Answers one request; dies at the second one.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let dying = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        read_head(&mut stream).unwrap();
        stream.write_all(ok("dying").as_bytes()).unwrap();
        read_head(&mut stream).unwrap();
        drop(listener);
    });
    let well = Upstream::named("well");
    let settings = "balance: { hash: { header: x-key } }, retries: { attempts: 1 }";
    let gateway = Gateway::start(&format!("workers: 1\n{}", config(&[dying, well.address()], settings)));
    let get = |key: usize| gateway.send("GET", "/", &[("X-Key", &key.to_string())]);
    let key = (0..200).find(|key| get(*key).text() == "dying").unwrap();
    // The kept connection breaks, a new one is refused: neither may use up the one attempt elsewhere.
    let answer = get(key);
    assert_eq!((answer.status, answer.text().as_str()), (200, "well"));
    server.join().unwrap();
}

#[test]
fn a_post_is_not_sent_on_a_connection_that_is_known_to_be_closed() {
    let up = Bare::start(|stream, _| {
        if read_head(stream).is_some() {
            let _ = stream.write_all(ok("up").as_bytes());
        }
    });
    let gateway = strict(up.address(), "");
    let mut client = gateway.client();
    for _ in 0..10 {
        client.write(request("POST", "/", &[("Content-Length", "0")]).as_bytes());
        assert_eq!(client.read_answer_to("POST").text(), "up");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn an_upstream_that_says_close_is_believed() {
    let up = Upstream::start(|_| Reply::ok("up").close());
    let gateway = strict(up.address(), "");
    let mut client = gateway.client();
    for _ in 0..5 {
        assert_eq!(client.get("/").text(), "up", "and the client's own connection stays");
    }
    assert_eq!(up.connections(), 5);
}

#[test]
fn without_keepalive_every_request_has_its_own_connection() {
    let up = Upstream::named("up");
    let gateway = strict(up.address(), ", keepalive: 0s");
    let mut client = gateway.client();
    for _ in 0..5 {
        assert_eq!(client.get("/").text(), "up");
    }
    assert_eq!(up.connections(), 5);
}

#[test]
fn an_idle_connection_is_closed_after_its_time() {
    let (closed, when) = std::sync::mpsc::channel();
    let up = Bare::start(move |stream, _| {
        read_head(stream);
        stream.write_all(ok("up").as_bytes()).unwrap();
        let began = Instant::now();
        let ended = read_head(stream).is_none();
        let _ = closed.send((ended, began.elapsed()));
    });
    let gateway = strict(up.address(), ", keepalive: 400ms");
    assert_eq!(gateway.get("/").text(), "up");
    let (ended, after) = when.recv_timeout(Duration::from_secs(10)).unwrap();
    assert!(ended, "no other request came");
    assert!(after > Duration::from_millis(350) && after < Duration::from_secs(2), "{after:?}");
    assert_eq!(gateway.get("/").text(), "up");
}

#[test]
fn bytes_behind_an_answer_are_never_an_answer() {
    let up = Upstream::start(|request| {
        let evil = if request.target == "/first" { ok("evil") } else { String::new() };
        Reply::raw_open(ok("mine") + &evil)
    });
    let gateway = strict(up.address(), "");
    let mut client = gateway.client();
    for _ in 0..5 {
        assert_eq!(client.get("/first").text(), "mine");
        assert_eq!(client.get("/second").text(), "mine");
    }
    // The poisoned connections were thrown away; the others were kept.
    assert_eq!(up.connections(), 6);
}

#[test]
fn bytes_that_come_while_a_connection_is_idle_are_never_an_answer() {
    let up = Bare::start(|stream, _| {
        while read_head(stream).is_some() {
            stream.write_all(ok("mine").as_bytes()).unwrap();
            std::thread::sleep(Duration::from_millis(50));
            let _ = stream.write_all(ok("evil").as_bytes());
        }
    });
    let gateway = strict(up.address(), "");
    let mut client = gateway.client();
    for _ in 0..5 {
        assert_eq!(client.get("/").text(), "mine");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(up.connections(), 5);
}

#[test]
fn a_body_behind_an_answer_that_has_none_is_never_an_answer() {
    let up = Upstream::start(|request| match (request.method.as_str(), request.target.as_str()) {
        ("HEAD", _) => Reply::raw_open(format!("HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n{}", ok("evil"))),
        (_, "/204") => Reply::raw_open(format!("HTTP/1.1 204 No Content\r\n\r\n{}", ok("evil"))),
        (_, "/304") => Reply::raw_open(format!("HTTP/1.1 304 Not Modified\r\n\r\n{}", ok("evil"))),
        _ => Reply::ok("mine"),
    });
    let gateway = strict(up.address(), "");
    for (method, path, status) in [("HEAD", "/", 200), ("GET", "/204", 204), ("GET", "/304", 304)] {
        let mut client = gateway.client();
        client.write(request(method, path, &[]).as_bytes());
        assert_eq!(client.read_answer_to(method).status, status);
        assert_eq!(client.get("/").text(), "mine", "behind {method} {path}");
    }
}

#[test]
fn a_client_that_leaves_in_the_middle_of_an_answer_leaves_nothing_behind() {
    let up = Upstream::start(|request| match request.target.as_str() {
        "/big" => Reply::ok(vec![b'x'; 8 << 20]),
        "/slow" => Reply::ok("slow").after(Duration::from_millis(100)),
        target => Reply::ok(target),
    });
    let gateway = strict(up.address(), "");
    for i in 0..10 {
        for path in ["/big", "/slow"] {
            let mut leaving = gateway.client();
            leaving.write(request("GET", path, &[]).as_bytes());
            if path == "/big" {
                leaving.more();
            }
        }
        let path = format!("/{i}");
        assert_eq!(gateway.get(&path).text(), path);
    }
    eventually("nothing is in flight", || gateway.status()["upstreams"].to_string().contains("\"in_flight\":0"));
}

#[test]
fn a_client_that_leaves_in_the_middle_of_its_body_leaves_nothing_behind() {
    let up = Upstream::start(|request| Reply::ok(request.body.clone()));
    let gateway = strict(up.address(), "");
    for i in 0..10 {
        let mut leaving = gateway.client();
        leaving.write(request("POST", "/", &[("Content-Length", "100")]).as_bytes());
        leaving.write(b"only a part");
        drop(leaving);
        let mut client = gateway.client();
        let body = format!("whole {i}");
        client.write(request("POST", "/", &[("Content-Length", &body.len().to_string())]).as_bytes());
        client.write(body.as_bytes());
        assert_eq!(client.read_answer_to("POST").text(), body);
    }
    assert!(up.seen().iter().all(|request| request.body.starts_with(b"whole")), "no part was taken for a whole");
}

#[test]
fn many_clients_at_once_get_their_own_answers() {
    let up =
        Upstream::start(|request| Reply::ok(format!("{} {}", request.target, "y".repeat(request.target.len() * 100))));
    let gateway = gateway(&[up.address()], "");
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let gateway = &gateway;
            scope.spawn(move || {
                let mut client = gateway.client();
                for i in 0..100 {
                    let path = format!("/{thread}/{i}{}", "z".repeat(i));
                    let answer = client.get(&path).text();
                    assert!(answer.starts_with(&format!("{path} ")), "{path} got {answer}");
                    assert_eq!(answer.len(), path.len() * 101 + 1);
                }
            });
        }
    });
    assert!(!gateway.log().contains("ERROR"), "{}", gateway.log());
    assert!(up.connections() <= 80, "a tenth of the requests at most: {}", up.connections());
}

//! Requests that are broken off, connections that end, processes that are replaced.

use std::{io::Read as _, net::TcpListener, sync::mpsc, time::Duration};

use h3::error::{Code, StreamError};
use rustix::process::Signal;

use super::{ROUTE, config, echo, start, write_certificate};
use crate::support::{
    Authority, Gateway, Reply, Upstream, eventually,
    http3::{Http3, Quic, exchange, request},
};

#[test]
fn the_upstream_hears_of_a_client_that_has_given_up() {
    let up = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = up.local_addr().unwrap();
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        let (mut stream, _) = up.accept().unwrap();
        let mut buffer = [0; 4096];
        let asked = stream.read(&mut buffer).unwrap();
        tell.send(asked).unwrap();
        // Until the gateway has closed it.
        tell.send(stream.read(&mut buffer).unwrap_or(0)).unwrap();
    });
    let fake = Upstream::named("unused");
    let yaml = ROUTE.replace("up }", "slow }");
    let (gateway, authority) = {
        let authority = Authority::new("http3");
        let yaml = config(&fake, "true", &yaml)
            .replace("upstreams: { ", &format!("upstreams: {{ slow: {{ endpoints: [\"{address}\"] }}, "));
        let gateway = Gateway::start_with(&yaml, |folder, _| write_certificate(folder, &authority));
        (gateway, authority)
    };
    let client = Http3::connect(gateway.address(), &authority);
    client.quic.run(async {
        let mut stream = client.requests().send_request(request("GET", "/", &[])).await.unwrap();
        stream.finish().await.unwrap();
        tokio::task::block_in_place(|| assert!(told.recv_timeout(Duration::from_secs(10)).unwrap() > 0));
        stream.stop_sending(Code::H3_REQUEST_CANCELLED);
    });
    assert_eq!(told.recv_timeout(Duration::from_secs(10)).unwrap(), 0, "the upstream's connection ends");
    eventually("nothing is in flight", || gateway.metric("torana_requests_in_flight") == 0.0);
}

#[test]
fn a_response_that_breaks_off_does_not_pass_for_a_whole_one() {
    let up = Upstream::start(|request| match request.target.as_str() {
        "/length" => Reply::raw("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nthe beginning"),
        "/chunked" => Reply::raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"),
        _ => Reply::ok("whole"),
    });
    let (gateway, authority) = start(&up, "true", ROUTE);
    let client = Http3::connect(gateway.address(), &authority);
    for path in ["/length", "/chunked"] {
        let answer = client.try_send("GET", path, &[], b"");
        assert!(
            matches!(answer, Err(StreamError::RemoteTerminate { code: Code::H3_INTERNAL_ERROR, .. })),
            "{answer:?}"
        );
    }
    assert_eq!(client.get("/").text(), "whole");
}

#[test]
fn a_client_that_pauses_in_its_body_is_not_waited_for() {
    let up = Upstream::start(echo);
    let (gateway, authority) = start(&up, "true\n    body_timeout: 400ms", ROUTE);
    let client = Http3::connect(gateway.address(), &authority);
    let status = client.quic.run(async {
        let mut stream = client.requests().send_request(request("POST", "/", &[])).await.unwrap();
        stream.send_data(b"some".to_vec().into()).await.unwrap();
        stream.recv_response().await.unwrap().status()
    });
    assert_eq!(status, 408);
    assert_eq!(client.send("POST", "/", &[], b"all").text(), "all");
}

#[test]
fn informational_responses_and_those_without_a_body_pass() {
    let up = Upstream::start(|request| match request.target.as_str() {
        "/hints" => {
            Reply::raw("HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        }
        "/nothing" => Reply::new(204, ""),
        _ => Reply::new(304, "").header("etag", "\"x\""),
    });
    let (gateway, authority) = start(&up, "true", ROUTE);
    let client = Http3::connect(gateway.address(), &authority);
    assert_eq!(client.get("/hints").text(), "ok");
    assert_eq!((client.get("/nothing").status, client.get("/same").status), (204, 304));
}

#[test]
fn after_so_many_requests_a_client_is_told_to_go_away() {
    let up = Upstream::named("up");
    let (gateway, authority) = start(&up, "true\n    max_requests: 3", ROUTE);
    let client = Http3::connect(gateway.address(), &authority);
    for _ in 0..3 {
        assert_eq!(client.get("/").text(), "up");
    }
    eventually("the client knows", || client.try_send("GET", "/", &[], b"").is_err());
    assert_eq!(client.quic.closed(), 0x100);
    assert_eq!(Http3::connect(gateway.address(), &authority).get("/").text(), "up");
}

fn slow(request: &crate::support::Recorded) -> Reply {
    let slow = request.target.starts_with("/slow");
    Reply::ok(format!("{} {}", request.target, request.body.len())).after(Duration::from_millis(if slow {
        1500
    } else {
        0
    }))
}

#[test]
fn a_process_that_stops_answers_what_it_was_asked() {
    let up = Upstream::start(slow);
    let (mut gateway, authority) = start(&up, "true", ROUTE);
    let (busy, idle) = (Http3::connect(gateway.address(), &authority), Http3::connect(gateway.address(), &authority));
    assert_eq!(idle.get("/").status, 200);
    let asked = busy.quic.runtime.spawn(exchange(busy.requests(), request("GET", "/slow", &[]), Vec::new()));
    eventually("the upstream is asked", || up.seen().len() == 2);
    gateway.signal(Signal::TERM);
    assert_eq!(idle.quic.closed(), 0x100, "an idle connection ends at once");
    assert_eq!(busy.quic.run(asked).unwrap().unwrap().text(), "/slow 0");
    assert_eq!(gateway.wait(), Some(0));
    assert_eq!(busy.quic.closed(), 0x100);
}

/// A gateway that can be replaced, with its certificates in another folder.
fn replaceable(up: &Upstream) -> (Gateway, Authority, tempfile::TempDir) {
    let (authority, folder) = (Authority::new("http3"), tempfile::tempdir().unwrap());
    write_certificate(folder.path(), &authority);
    let yaml = config(up, "true", ROUTE).replace("tls.", &format!("{}/tls.", folder.path().display()));
    (Gateway::replaceable(&yaml), authority, folder)
}

#[test]
fn an_upgrade_loses_no_request_of_a_client_that_knows_goaway() {
    let up = Upstream::start(slow);
    let (gateway, authority, _folder) = replaceable(&up);
    let address = gateway.address();
    let old = Http3::connect(address, &authority);
    assert_eq!(old.get("/before").status, 200);
    let first = gateway.main();
    // In flight across the upgrade: a response that takes its time, and a body that comes in pieces.
    let asked = old.quic.runtime.spawn(exchange(old.requests(), request("GET", "/slow", &[]), Vec::new()));
    let mut requests = old.requests();
    let (more, mut pieces) = tokio::sync::mpsc::unbounded_channel::<Vec<u8>>();
    let upload = old.quic.runtime.spawn(async move {
        let mut stream = requests.send_request(request("POST", "/upload", &[])).await?;
        while let Some(piece) = pieces.recv().await {
            stream.send_data(piece.into()).await?;
        }
        stream.finish().await?;
        let status = stream.recv_response().await?.status();
        Ok::<_, StreamError>(status.as_u16())
    });
    more.send(vec![b'x'; 10_000]).unwrap();
    eventually("the slow one is on its way", || up.seen().iter().any(|seen| seen.target == "/slow"));
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let asking = {
        let (stop, authority) = (std::sync::Arc::clone(&stop), Authority::clone(&authority));
        std::thread::spawn(move || ask_on(address, &authority, &stop))
    };
    std::thread::sleep(Duration::from_millis(200));
    gateway.upgrade();
    // The old process serves on what it has, through the new one.
    for _ in 0..20 {
        more.send(vec![b'x'; 100_000]).unwrap();
    }
    let new = Quic::connect(address, &authority);
    assert_eq!(old.quic.run(asked).unwrap().unwrap().text(), "/slow 0");
    drop(more);
    assert_eq!(old.quic.run(upload).unwrap().unwrap(), 200);
    assert_eq!(up.seen().iter().find(|seen| seen.target == "/upload").unwrap().body.len(), 2_010_000);
    assert_eq!(old.quic.closed(), 0x100, "the old process has said goodbye");
    eventually("the old process is gone", || !super::super::upgrade::is_alive(first));
    stop.store(true, std::sync::atomic::Ordering::SeqCst);
    let (answered, connections, lost) = asking.join().unwrap();
    assert_eq!(lost, Vec::<String>::new(), "{answered} answered over {connections} connections");
    assert!(answered > 20 && connections >= 2, "{answered} answered over {connections} connections");
    drop(new);
    assert_eq!(Http3::connect(address, &authority).get("/after").status, 200);
}

/// Asks one after the other, and on a new connection where the server says so: how many were answered, over how many
/// connections, and which were lost.
fn ask_on(
    address: std::net::SocketAddr,
    authority: &Authority,
    stop: &std::sync::atomic::AtomicBool,
) -> (usize, usize, Vec<String>) {
    let (mut answered, mut connections, mut lost) = (0, 0, Vec::new());
    let mut client: Option<Http3> = None;
    while !stop.load(std::sync::atomic::Ordering::SeqCst) {
        let current = client.get_or_insert_with(|| {
            connections += 1;
            Http3::connect(address, authority)
        });
        match current.try_send("GET", "/on", &[], b"") {
            Ok(answer) if answer.status == 200 => answered += 1,
            // It was not sent, or had no effect.
            Err(StreamError::RemoteTerminate { code: Code::H3_REQUEST_REJECTED, .. }) => client = None,
            Err(error) if error.to_string() == "Remote is closing the connection" => client = None,
            other => {
                lost.push(format!("{other:?}"));
                client = None;
            }
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    (answered, connections, lost)
}

#[test]
fn a_client_of_a_process_that_is_gone_hears_it_from_the_next_one() {
    let up = Upstream::named("up");
    let (gateway, authority, _folder) = replaceable(&up);
    let silent = Quic::connect(gateway.address(), &authority);
    let first = gateway.main();
    gateway.upgrade();
    eventually("the old process is gone", || !super::super::upgrade::is_alive(first));
    // It was told; whoever has missed that is told again when it says something.
    let again = gateway.upgrade();
    assert_ne!(again, first);
    assert!(silent.connection.close_reason().is_some());
    assert_eq!(Http3::connect(gateway.address(), &authority).get("/").text(), "up");
}

#[test]
fn a_head_request_that_fails_has_an_answer_with_an_end() {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let up = Upstream::named("unused");
    let authority = Authority::new("http3");
    let yaml = config(&up, "true", ROUTE).replace(&up.address().to_string(), &gone.to_string());
    let gateway = Gateway::start_with(&yaml, |folder, _| write_certificate(folder, &authority));
    let client = Http3::connect(gateway.address(), &authority);
    for method in ["HEAD", "GET", "POST"] {
        let answer = client.send(method, "/", &[], b"");
        assert_eq!((answer.status, answer.body.is_empty()), (502, method == "HEAD"), "{method}");
    }
}

#[test]
fn a_new_configuration_without_http3_lets_its_requests_end() {
    let up = Upstream::start(slow);
    let (gateway, authority, folder) = replaceable(&up);
    let client = Http3::connect(gateway.address(), &authority);
    let first = gateway.main();
    let asked = client.quic.runtime.spawn(exchange(client.requests(), request("GET", "/slow", &[]), Vec::new()));
    eventually("the upstream is asked", || !up.seen().is_empty());
    let yaml = config(&up, "false", ROUTE).replace("tls.", &format!("{}/tls.", folder.path().display()));
    gateway.write_config(&yaml);
    let (code, said) = gateway.torana(&["reload"]);
    assert_eq!(code, Some(0), "{said}");
    assert_ne!(gateway.main(), first, "{said}");
    assert_eq!(client.quic.run(asked).unwrap().unwrap().text(), "/slow 0");
    assert_eq!(client.quic.closed(), 0x100);
    eventually("the old process is gone", || !super::super::upgrade::is_alive(first));
    assert!(!Quic::is_there(gateway.address(), &authority, Duration::from_millis(500)));
}

#[test]
fn trailers_of_an_upstream_reach_the_client() {
    let up = crate::support::http2::with_trailers();
    let fake = Upstream::named("unused");
    let authority = Authority::new("http3");
    let yaml = config(&fake, "true", ROUTE)
        .replace(&format!("[\"{}\"]", fake.address()), &format!("[\"{up}\"], protocol: http2"));
    let gateway = Gateway::start_with(&yaml, |folder, _| write_certificate(folder, &authority));
    let client = Http3::connect(gateway.address(), &authority);
    let (body, trailers) = client.quic.run(async {
        let ask = request("POST", "/service/method", &[("content-type", "application/grpc"), ("te", "trailers")]);
        let mut stream = client.requests().send_request(ask).await.unwrap();
        stream.send_data(b"question".to_vec().into()).await.unwrap();
        stream.finish().await.unwrap();
        assert_eq!(stream.recv_response().await.unwrap().status(), 200);
        let mut body = Vec::new();
        while let Some(mut piece) = stream.recv_data().await.unwrap() {
            use bytes::Buf as _;
            body.extend_from_slice(&piece.copy_to_bytes(piece.remaining()));
        }
        (body, stream.recv_trailers().await.unwrap().unwrap())
    });
    assert_eq!((body.as_slice(), trailers.get("grpc-status").unwrap().to_str().unwrap()), (&b"answer"[..], "0"));
}

#[test]
fn no_request_can_be_replayed() {
    let up = Upstream::named("up");
    let (gateway, authority) = start(&up, "true", ROUTE);
    assert!(!crate::support::http3::has_early_data(gateway.address(), &authority));
}

#[test]
fn rules_are_relaxed_by_route_as_over_every_other_protocol() {
    let up = Upstream::named("up");
    let routes = "routes:
  - { name: lenient, match: { path: { prefix: /lenient } }, hygiene: { encoded_slash: allow, path_parameters: allow, query_semicolon: allow, method_override: allow, duplicate_headers: allow, confusable_headers: allow }, upstream: up }
  - { name: all, upstream: up }
";
    let (gateway, authority) = start(&up, "true", routes);
    let client = Http3::connect(gateway.address(), &authority);
    for rest in ["/a%2Fb", "/a;x=1", "/a?b=c;d"] {
        assert_eq!(client.get(&format!("/strict{rest}")).status, 400, "{rest}");
        assert_eq!(client.get(&format!("/lenient{rest}")).status, 200, "{rest}");
        assert_eq!(up.last().target, format!("/lenient{rest}"));
    }
}

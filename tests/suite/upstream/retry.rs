//! What is tried again, where, how often, and what never.

use std::time::{Duration, Instant};

use super::{config, different, gateway, named};
use crate::support::{Bare, Busy, Gateway, Recorded, Refusing, Reply, Response, Upstream, read_head, request};

fn echo() -> Upstream {
    Upstream::start(|request| Reply::ok(request.body.clone()))
}

fn broken() -> Upstream {
    Upstream::start(|_| Reply::hang_up())
}

fn send(gateway: &Gateway, method: &str, body: &[u8]) -> Response {
    let mut client = gateway.client();
    client.write(request(method, "/", &[("Content-Length", &body.len().to_string())]).as_bytes());
    // The gateway may have answered before all of it is sent.
    client.try_write(body);
    client.read_answer_to(method)
}

fn is_whole(requests: &[Recorded], body: &[u8]) -> bool {
    requests.iter().all(|request| request.body == body)
}

#[test]
fn a_connection_that_is_refused_is_tried_elsewhere_for_every_method_with_its_whole_body() {
    let (dead, echo) = (Refusing::new(), echo());
    let gateway = gateway(&[dead.address(), echo.address()], "outliers: { max_ejected: 0% }");
    // Larger than what the gateway keeps of a body to send it again: nothing of it was read yet.
    for size in [10, 1 << 20] {
        let body: Vec<u8> = (0..size).map(|i: u32| i.to_le_bytes()[0]).collect();
        for method in ["POST", "PUT", "PATCH", "DELETE", "POST", "POST"] {
            let answer = send(&gateway, method, &body);
            assert_eq!(answer.status, 200, "{method}");
            assert!(answer.body == body, "{method}");
        }
    }
    let failures = format!("torana_upstream_failures_total{{endpoint=\"{}\",upstream=\"up\"}}", dead.address());
    assert!(gateway.metric(&failures) >= 6.0, "the endpoint that refuses has its turns");
}

#[test]
fn a_chunked_body_is_whole_after_a_refused_connection() {
    let (dead, echo) = (Refusing::new(), echo());
    let gateway = gateway(&[dead.address(), echo.address()], "");
    for _ in 0..4 {
        let mut client = gateway.client();
        client.write(request("POST", "/", &[("Transfer-Encoding", "chunked")]).as_bytes());
        client.write(b"5\r\nhello\r\n");
        std::thread::sleep(Duration::from_millis(30));
        client.write(b"6\r\n world\r\n0\r\n\r\n");
        assert_eq!(client.read_answer_to("POST").text(), "hello world");
    }
}

#[test]
fn a_connection_that_does_not_come_about_in_time_is_tried_elsewhere() {
    let (busy, up) = (Busy::new(), Upstream::named("up"));
    let gateway = gateway(&[busy.address(), up.address()], "timeouts: { connect: 200ms }");
    for _ in 0..4 {
        assert_eq!(gateway.get("/").text(), "up");
    }
}

#[test]
fn an_idempotent_request_is_tried_elsewhere_when_the_connection_breaks_before_an_answer() {
    let (broken, well) = (broken(), Upstream::named("well"));
    let gateway = gateway(&[broken.address(), well.address()], "");
    for method in ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"] {
        for _ in 0..2 {
            let answer = send(&gateway, method, b"body");
            assert_eq!(answer.status, 200, "{method}");
        }
    }
    assert!(broken.seen().len() >= 5, "{}", broken.seen().len());
    assert_eq!(well.seen().len(), 10);
    assert!(is_whole(&broken.seen(), b"body") && is_whole(&well.seen(), b"body"));
}

#[test]
fn a_chunked_body_is_whole_after_a_connection_that_broke() {
    let (broken, echo) = (broken(), echo());
    let gateway = gateway(&[broken.address(), echo.address()], "");
    for _ in 0..4 {
        let mut client = gateway.client();
        client.write(request("PUT", "/", &[("Transfer-Encoding", "chunked")]).as_bytes());
        client.write(b"5\r\nhello\r\n");
        std::thread::sleep(Duration::from_millis(30));
        client.write(b"6\r\n world\r\n0\r\n\r\n");
        assert_eq!(client.read_answer_to("PUT").text(), "hello world");
    }
    assert!(broken.seen().len() >= 2 && is_whole(&broken.seen(), b"hello world"));
}

#[test]
fn a_head_that_breaks_off_is_no_answer() {
    let cut = Upstream::start(|_| Reply::raw("HTTP/1.1 200 OK\r\nContent-Le"));
    let well = Upstream::named("well");
    let gateway = gateway(&[cut.address(), well.address()], "");
    for _ in 0..4 {
        assert_eq!(gateway.get("/").text(), "well");
    }
    assert!(cut.seen().len() >= 2);
}

#[test]
fn a_request_that_is_not_idempotent_is_never_sent_twice() {
    let (one, two) = (broken(), broken());
    let gateway = gateway(
        &[one.address(), two.address()],
        "retries: { attempts: 5, on: [connect_failure, reset, gateway_error] }",
    );
    for (i, method) in ["POST", "PATCH", "POST", "PATCH"].iter().enumerate() {
        let answer = send(&gateway, method, b"pay once");
        assert_eq!((answer.status, answer.problem().as_str()), (502, "upstream_unreachable"), "{method}");
        assert_eq!(one.seen().len() + two.seen().len(), i + 1, "{method}");
    }
}

#[test]
fn a_request_with_more_body_than_is_kept_is_not_sent_twice() {
    let (one, two) = (broken(), broken());
    let gateway = gateway(&[one.address(), two.address()], "retries: { attempts: 5 }");
    let answer = send(&gateway, "PUT", &vec![b'x'; 200_000]);
    assert_eq!((answer.status, answer.problem().as_str()), (502, "upstream_unreachable"));
    assert_eq!(one.seen().len() + two.seen().len(), 1);
}

#[test]
fn nothing_is_tried_again_once_bytes_went_to_the_client() {
    let cut = || Upstream::start(|_| Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"));
    let (one, two) = (cut(), cut());
    let gateway = gateway(&[one.address(), two.address()], "retries: { attempts: 5 }");
    let mut client = gateway.client();
    client.write(request("GET", "/", &[]).as_bytes());
    assert!(client.try_read("GET").is_none(), "the client learns that it is not whole");
    assert_eq!(one.seen().len() + two.seen().len(), 1);
}

#[test]
fn the_number_of_attempts_holds() {
    for (attempts, tries) in [(0, 1), (1, 2), (2, 3), (4, 5)] {
        let all: Vec<Upstream> = (0..6).map(|_| broken()).collect();
        let addresses: Vec<_> = all.iter().map(Upstream::address).collect();
        let gateway = gateway(&addresses, &format!("retries: {{ attempts: {attempts} }}"));
        assert_eq!(gateway.get("/").problem(), "upstream_unreachable");
        let seen: Vec<usize> = all.iter().map(|up| up.seen().len()).collect();
        assert_eq!(seen.iter().sum::<usize>(), tries, "{attempts}: {seen:?}");
        assert!(seen.iter().all(|tries| *tries <= 1), "each at another endpoint: {seen:?}");
    }
}

#[test]
fn the_number_of_attempts_holds_for_connections_too() {
    let dead: Vec<Refusing> = (0..5).map(|_| Refusing::new()).collect();
    let addresses: Vec<_> = dead.iter().map(Refusing::address).collect();
    let gateway = gateway(&addresses, "retries: { attempts: 2 }");
    let answer = send(&gateway, "POST", b"body");
    assert_eq!((answer.status, answer.problem().as_str()), (502, "upstream_unreachable"));
    let failures =
        |address| gateway.metric(&format!("torana_upstream_failures_total{{endpoint=\"{address}\",upstream=\"up\"}}"));
    assert_eq!(addresses.iter().map(failures).sum::<f64>(), 3.0);
}

#[test]
fn a_single_endpoint_is_tried_again() {
    let up = Bare::start(|stream, before| {
        if read_head(stream).is_some() && before > 0 {
            std::io::Write::write_all(stream, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
            read_head(stream);
        }
    });
    let gateway = gateway(&[up.address()], "");
    assert_eq!(gateway.get("/").text(), "ok");
    assert_eq!(up.connections(), 2);
}

#[test]
fn only_what_is_listed_is_tried_again() {
    let (broken, well) = (broken(), Upstream::named("well"));
    let both = [broken.address(), well.address()];
    let statuses = |gateway: &Gateway| (0..6).map(|_| gateway.get("/").status).collect::<Vec<_>>();
    let resets = gateway(&both, "retries: { attempts: 3, on: [connect_failure] }");
    assert_eq!(statuses(&resets).iter().filter(|status| **status == 502).count(), 3);
    let dead = Refusing::new();
    let refusals = gateway(&[dead.address(), well.address()], "retries: { attempts: 3, on: [reset] }");
    assert_eq!(statuses(&refusals).iter().filter(|status| **status == 502).count(), 3);
    let nothing = gateway(&both, "retries: { attempts: 3, on: [] }");
    assert_eq!(statuses(&nothing).iter().filter(|status| **status == 502).count(), 3);
}

#[test]
fn a_gateway_error_is_tried_elsewhere_where_that_is_asked_for() {
    let well = Upstream::named("well");
    for status in [502, 503, 504] {
        let ill = Upstream::start(move |_| Reply::new(status, "ill"));
        let both = [ill.address(), well.address()];
        let asked = gateway(&both, "retries: { attempts: 1, on: [gateway_error] }");
        for _ in 0..4 {
            assert_eq!(asked.get("/").text(), "well", "{status}");
        }
        assert!((1..=4).contains(&ill.seen().len()), "{status}");
        // POST was heard by the first one.
        let posts: Vec<u16> = (0..4).map(|_| send(&asked, "POST", b"once").status).collect();
        assert_eq!(posts.iter().filter(|answer| **answer == status).count(), 2, "{posts:?}");
        let not_asked = gateway(&both, "");
        let answers: Vec<String> = (0..4).map(|_| not_asked.get("/").text()).collect();
        assert_eq!(different(&answers), ["ill", "well"].into());
    }
}

#[test]
fn the_last_gateway_error_is_the_answer() {
    let ill = |name: &'static str| Upstream::start(move |_| Reply::new(503, name).header("retry-after", "7"));
    let (one, two) = (ill("one"), ill("two"));
    let gateway = gateway(&[one.address(), two.address()], "retries: { attempts: 5, on: [gateway_error] }");
    let answer = gateway.get("/");
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("7")));
    assert!(["one", "two"].contains(&answer.text().as_str()));
    assert_eq!((one.seen().len(), two.seen().len()), (1, 1));
}

#[test]
fn other_statuses_are_answers() {
    let up = Upstream::start(|_| Reply::new(500, "mine"));
    let (_well, [well]) = named(["well"]);
    let gateway = gateway(&[up.address(), well], "retries: { attempts: 5, on: [gateway_error, reset] }");
    let answers: Vec<String> = (0..4).map(|_| gateway.get("/").text()).collect();
    assert_eq!(different(&answers), ["mine", "well"].into());
}

#[test]
fn an_answer_that_is_late_is_not_asked_for_again() {
    let slow = || Upstream::start(|_| Reply::ok("late").after(Duration::from_secs(5)));
    let (one, two) = (slow(), slow());
    let gateway = gateway(&[one.address(), two.address()], "timeouts: { read: 300ms }, retries: { attempts: 5 }");
    let began = Instant::now();
    assert_eq!(gateway.get("/").problem(), "upstream_timeout");
    assert!(began.elapsed() < Duration::from_millis(1500), "{:?}", began.elapsed());
    assert_eq!(one.seen().len() + two.seen().len(), 1);
}

#[test]
fn tries_carry_what_the_gateway_adds_once() {
    let (broken, well) = (broken(), Upstream::named("well"));
    let gateway = gateway(&[broken.address(), well.address()], "");
    for _ in 0..2 {
        assert_eq!(gateway.send("GET", "/a?b", &[("Via", "1.0 before")]).text(), "well");
    }
    for seen in well.seen().iter().chain(&broken.seen()) {
        // `header` fails if it is there twice.
        assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"));
        assert_eq!(seen.header("host"), Some("test"));
        assert_eq!(seen.head.matches("torana-").count(), 1, "{}", seen.head);
        assert_eq!(seen.target, "/a?b");
    }
}

#[test]
fn the_access_log_says_why_a_try_that_failed_was_the_last_one() {
    let bad = || Upstream::start(|_| Reply::new(503, "bad"));
    let cut = || Upstream::start(|_| Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"));
    let large = vec![b'x'; 200_000];
    for (up, settings, (method, body), why) in [
        (broken(), "attempts: 2", ("GET", &[][..]), Some("attempts")),
        (broken(), "attempts: 2", ("POST", b"once"), Some("method")),
        (broken(), "attempts: 2", ("PUT", &large), Some("body")),
        (broken(), "attempts: 2, on: [timeout]", ("GET", b""), Some("not_listed")),
        (cut(), "attempts: 2", ("GET", b""), Some("begun")),
        (bad(), "attempts: 2, on: [gateway_error]", ("GET", b""), Some("no_other_endpoint")),
        (bad(), "attempts: 2", ("GET", b""), Some("not_listed")),
        (Upstream::start(|_| Reply::new(404, "none")), "attempts: 2", ("GET", b""), None),
        (echo(), "attempts: 2", ("GET", b""), None),
    ] {
        let yaml = config(&[up.address()], &format!("retries: {{ {settings}, backoff: 1ms }}"));
        let gateway = Gateway::start(&format!("{yaml}telemetry: {{ access_log: {{}} }}\n"));
        let mut client = gateway.client();
        client.write(request(method, "/", &[("Content-Length", &body.len().to_string())]).as_bytes());
        client.write(body);
        if why != Some("begun") {
            client.read_answer_to(method);
        }
        let line = gateway.access_lines(1).remove(0);
        assert_eq!(line.get("not_retried").and_then(|why| why.as_str()), why, "{settings}: {line}");
    }
}

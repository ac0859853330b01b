//! `bandwidth`: bodies are slowed down in both directions, and nothing else is.

use std::time::{Duration, Instant};

use crate::{
    policies::config,
    support::{Client, Gateway, Reply, Upstream, request},
};

const SIZE: usize = 600 << 10;

fn large() -> Upstream {
    Upstream::start(|request| if request.target == "/small" { Reply::ok("small") } else { Reply::ok(vec![b'x'; SIZE]) })
}

fn timed<T>(run: impl FnOnce() -> T) -> (T, Duration) {
    let began = Instant::now();
    let result = run();
    (result, began.elapsed())
}

#[test]
fn an_answer_takes_as_long_as_the_file_says_and_is_whole() {
    let up = large();
    let gateway = Gateway::start(&config(&up, "{ bandwidth: { response: 512KiB/s } }"));
    let (answer, took) = timed(|| gateway.get("/"));
    assert_eq!(answer.body.len(), SIZE);
    // 600 KiB, of which 64 pass at once, at 512 KiB in a second.
    assert!(took >= Duration::from_secs(1) && took < Duration::from_secs(5), "{took:?}");
    let (answer, took) = timed(|| gateway.get("/small"));
    assert_eq!(answer.text(), "small");
    assert!(took < Duration::from_millis(700), "{took:?}");
}

#[test]
fn connections_have_the_whole_of_it_each_and_a_key_shares_it() {
    let up = large();
    let both = |gateway: &Gateway| {
        timed(|| {
            std::thread::scope(|scope| {
                let all = [(); 2].map(|()| scope.spawn(|| gateway.get("/").body.len()));
                assert_eq!(all.map(|one| one.join().unwrap()), [SIZE; 2]);
            });
        })
        .1
    };
    let each = both(&Gateway::start(&config(&up, "{ bandwidth: { response: 512KiB/s } }")));
    let shared = both(&Gateway::start(&config(&up, "{ bandwidth: { key: client_ip, response: 512KiB/s } }")));
    assert!(each >= Duration::from_secs(1) && shared >= Duration::from_millis(2200), "{each:?} {shared:?}");
    assert!(each < shared, "{each:?} {shared:?}");
}

#[test]
fn uploads_are_slowed_down_and_arrive_whole() {
    let up = Upstream::start(|request| Reply::ok(request.body.len().to_string()));
    let gateway = Gateway::start(&config(&up, "{ bandwidth: { request: 512KiB/s } }"));
    let (answer, took) = timed(|| {
        let mut client: Client = gateway.client();
        client.write(request("POST", "/", &[("Content-Length", &SIZE.to_string())]).as_bytes());
        client.write(&vec![b'x'; SIZE]);
        client.read_answer_to("POST")
    });
    assert_eq!((answer.status, answer.text()), (200, SIZE.to_string()));
    assert!(took >= Duration::from_millis(900) && took < Duration::from_secs(5), "{took:?}");
}

//! A client that talks over a WebSocket ([RFC 6455](https://www.rfc-editor.org/rfc/rfc6455)).

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    http1::{Connection, rhythm},
    tally::{Failure, Load},
    upstream::NUMBER,
};

/// How long a connection lasts: the process that was replaced waits for it.
const LASTS: Duration = Duration::from_secs(2);

/// Says its number, and waits until it hears it again.
pub(super) async fn talk(load: Arc<Load>, every: Duration) {
    let mut ticks = rhythm(every);
    while !load.is_over() {
        let opened = Instant::now();
        let mut connection = match open(&load).await {
            Ok(connection) => connection,
            Err(failure) => {
                load.web_socket.note(opened, Err(failure));
                ticks.tick().await;
                continue;
            }
        };
        while opened.elapsed() < LASTS && !load.is_over() {
            ticks.tick().await;
            let sent = Instant::now();
            let outcome = say(&mut connection, load.number()).await;
            let failed = outcome.is_err();
            load.web_socket.note(sent, outcome);
            if failed {
                break;
            }
        }
    }
}

async fn open(load: &Load) -> Result<Connection, Failure> {
    let mut connection = Connection::open(load).await?;
    let request = format!(
        "GET /socket HTTP/1.1\r\nHost: selftest\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{NUMBER}: {}\r\n\r\n",
        load.number()
    );
    connection.send(request.as_bytes()).await?;
    match connection.answer().await?.status {
        101 => Ok(connection),
        status => Err(Failure::Refused(format!("status {status} instead of a WebSocket"))),
    }
}

/// A masked text frame with the number; the other side sends it back without the mask.
async fn say(connection: &mut Connection, number: u64) -> Result<(), Failure> {
    let mask: [u8; 4] = rand::random();
    let text = number.to_string();
    let length = u8::try_from(text.len()).unwrap_or(0);
    let mut frame = vec![0x81, 0x80 | length];
    frame.extend_from_slice(&mask);
    frame.extend(text.bytes().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    connection.send(&frame).await?;
    let wanted = [&[0x81, length][..], text.as_bytes()].concat();
    let heard = connection.exactly(wanted.len()).await?;
    if heard == wanted { Ok(()) } else { Err(Failure::Wrong(format!("message {number} came back as {heard:?}"))) }
}

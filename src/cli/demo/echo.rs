//! An endpoint that answers with what it was asked: real sockets, so that the demo is the real thing.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
};

/// A header that is longer is not echoed.
const MAX_HEADER: u64 = 64 << 10;

/// Answers on `listener` for as long as the process lives.
pub(super) fn serve(name: &'static str, listener: TcpListener) -> io::Result<()> {
    std::thread::Builder::new().name(name.into()).spawn(move || {
        for stream in listener.incoming().flatten() {
            let spawned = std::thread::Builder::new().spawn(move || {
                if let Err(error) = answer_all(name, &stream) {
                    log::debug!("{name}: {error}");
                }
            });
            if let Err(error) = spawned {
                log::warn!("{name}: {error}");
            }
        }
    })?;
    Ok(())
}

fn answer_all(name: &str, stream: &TcpStream) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    while let Some(body) = answer(name, &mut reader)? {
        let head =
            format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
        let mut writer = stream;
        writer.write_all(head.as_bytes())?;
        writer.write_all(&body)?;
    }
    Ok(())
}

/// Reads a request and makes the answer; `None` at the end of the connection.
fn answer(name: &str, reader: &mut BufReader<&TcpStream>) -> io::Result<Option<Vec<u8>>> {
    let mut line = String::new();
    let mut head = reader.take(MAX_HEADER);
    if head.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, target) = (words.next(), words.next());
    let mut headers = serde_json::Map::new();
    let (mut length, mut chunked) = (0, false);
    loop {
        let mut line = String::new();
        head.read_line(&mut line)?;
        let line = line.trim_end();
        let Some((key, value)) = line.split_once(':') else {
            break;
        };
        let (key, value) = (key.to_ascii_lowercase(), value.trim());
        if key == "content-length" {
            length = value.parse().unwrap_or(0);
        }
        chunked |= key == "transfer-encoding";
        headers.insert(key, value.into());
    }
    if chunked {
        length = read_chunks(reader)?;
    } else {
        io::copy(&mut reader.take(length), &mut io::sink())?;
    }
    let echo = serde_json::json!({
        "endpoint": name,
        "method": method,
        "path": target,
        "headers": headers,
        "body_bytes": length,
    });
    Ok(Some(format!("{echo:#}\n").into_bytes()))
}

/// Reads a chunked body, as the gateway sends it, and returns its length.
fn read_chunks(reader: &mut BufReader<&TcpStream>) -> io::Result<u64> {
    let mut total = 0;
    loop {
        let mut line = String::new();
        reader.take(64).read_line(&mut line)?;
        let size =
            u64::from_str_radix(line.trim(), 16).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        // The line end behind a chunk belongs to it.
        io::copy(&mut reader.take(size.saturating_add(2)), &mut io::sink())?;
        if size == 0 {
            return Ok(total);
        }
        total += size;
    }
}

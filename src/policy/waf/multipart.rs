//! Forms with files: [RFC 7578](https://www.rfc-editor.org/rfc/rfc7578), to the letter.
//!
//! Those who read such forms forgive different things: line feeds alone, quotes of another kind, parameters that are there twice, a boundary within a
//! file. Whatever one of them could take for a field that is a file here would pass without a look, so that what is not written as browsers and libraries write it is refused.

use std::borrow::Cow;

use super::{
    body::{Broken, File, Parts},
    facts::{MAX_MEMBERS, cut},
};

const QUOTING: Broken = Broken("a parameter of multipart is not written as one");

/// A part has this many lines of header at most.
const MAX_LINES: usize = 16;

/// Takes a form apart.
pub(super) fn multipart<'a>(media_type: &[u8], body: &'a [u8], into: &mut Parts<'a>) -> Result<(), Broken> {
    let boundary = boundary(media_type)?;
    let first = [b"--", &*boundary].concat();
    let next = [b"\r\n--", &*boundary].concat();
    let mut rest = body.strip_prefix(&*first).ok_or(Broken("multipart does not begin with its boundary"))?;
    loop {
        if let Some(end) = rest.strip_prefix(b"--") {
            let clean = end.is_empty() || end == b"\r\n";
            return if clean { Ok(()) } else { Err(Broken("there is something behind the last part")) };
        }
        rest = rest.strip_prefix(b"\r\n").ok_or(Broken("the line of a boundary has something else"))?;
        let end = memchr::memmem::find(rest, &next).ok_or(Broken("the last part does not end"))?;
        let (piece, behind) = rest.split_at_checked(end).unwrap_or((rest, b""));
        // Behind a line feed alone, or at the start of a part, others would see it.
        if memchr::memmem::find(piece, &first).is_some() {
            return Err(Broken("a part has the boundary within"));
        }
        part(piece, into)?;
        rest = behind.get(next.len()..).unwrap_or_default();
    }
}

/// [RFC 2046, 5.1.1](https://www.rfc-editor.org/rfc/rfc2046#section-5.1.1), without the characters that would have to be quoted and that nobody uses.
fn boundary(media_type: &[u8]) -> Result<Vec<u8>, Broken> {
    let mut found = None;
    for (name, value) in parameters(cut(media_type, b';').1)? {
        if name.starts_with(b"boundary") && (name != b"boundary" || found.replace(value).is_some()) {
            return Err(Broken("multipart has two boundaries"));
        }
    }
    let found = found.ok_or(Broken("multipart has no boundary"))?;
    let is_letter = |byte: &u8| byte.is_ascii_alphanumeric() || b"'()+_-./:=?".contains(byte);
    let fits = !found.is_empty() && found.len() <= 70 && found.iter().all(is_letter);
    if fits { Ok(found) } else { Err(Broken("multipart has no boundary that is one")) }
}

/// A name, in small letters, and a value.
type Parameter = (Vec<u8>, Vec<u8>);

/// The parameters behind a value: `; name="value"`.
fn parameters(text: &[u8]) -> Result<Vec<Parameter>, Broken> {
    let mut found: Vec<Parameter> = Vec::new();
    let mut rest = text.trim_ascii();
    while !rest.is_empty() {
        let equals = rest.iter().position(|byte| !is_token(*byte)).filter(|at| *at > 0).ok_or(QUOTING)?;
        let (name, behind) = rest.split_at_checked(equals).ok_or(QUOTING)?;
        let name = name.to_ascii_lowercase();
        let (value, behind) = value(behind.strip_prefix(b"=").ok_or(QUOTING)?)?;
        if name.contains(&b'*') || found.iter().any(|(known, _)| *known == name) {
            return Err(QUOTING);
        }
        found.push((name, value));
        let behind = behind.trim_ascii_start();
        rest = match behind.strip_prefix(b";") {
            Some(more) => more.trim_ascii_start(),
            None if behind.is_empty() => behind,
            None => return Err(QUOTING),
        };
    }
    Ok(found)
}

/// A word, or a text in quotes, and what stands behind it.
fn value(text: &[u8]) -> Result<(Vec<u8>, &[u8]), Broken> {
    let Some(quoted) = text.strip_prefix(b"\"") else {
        let end = text.iter().position(|byte| !is_token(*byte)).unwrap_or(text.len());
        let (value, behind) = text.split_at_checked(end).filter(|_| end > 0).ok_or(QUOTING)?;
        return Ok((value.to_vec(), behind));
    };
    let mut value = Vec::new();
    let mut rest = quoted;
    while let Some((first, after)) = rest.split_first() {
        match (*first, after.split_first()) {
            (b'"', _) => return Ok((value, after)),
            (b'\\', Some((next @ (b'"' | b'\\'), behind))) => {
                value.push(*next);
                rest = behind;
            }
            (other, _) => {
                value.push(other);
                rest = after;
            }
        }
    }
    Err(QUOTING)
}

/// [RFC 9110, 5.6.2](https://www.rfc-editor.org/rfc/rfc9110#section-5.6.2), but for the single quote, which some take for a quote. A boundary needs no quotes for
/// what else it may have.
const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#' | b'$' | b'%' | b'&' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
        )
}

fn part<'a>(piece: &'a [u8], into: &mut Parts<'a>) -> Result<(), Broken> {
    let head = memchr::memmem::find(piece, b"\r\n\r\n").ok_or(Broken("a part has no header"))?;
    let (header, content) = piece.split_at_checked(head).unwrap_or((piece, b""));
    let content = content.get(4..).unwrap_or_default();
    let lines = lines(header)?;
    let (field, file) = disposition(&lines)?;
    if into.fields.len() + into.files.len() >= MAX_MEMBERS {
        return Err(Broken("the form has too many parts"));
    }
    into.take(field.len() * (lines.len() + 2) + piece.len())?;
    into.headers.extend(lines.iter().map(|line| (Cow::Owned(field.clone()), Cow::Borrowed(*line))));
    match file {
        // Some take an empty name for none, so that this is a field.
        Some(name) if !name.is_empty() => {
            into.files.push(File { field: Cow::Owned(field), name: Cow::Owned(name), size: content.len() });
        }
        Some(_) | None => into.fields.push((Cow::Owned(field), Cow::Borrowed(content))),
    }
    Ok(())
}

/// The lines of a header; none is folded, and none has a line feed of its own.
fn lines(header: &[u8]) -> Result<Vec<&[u8]>, Broken> {
    let mut lines = Vec::new();
    let mut rest = header;
    loop {
        let end = memchr::memmem::find(rest, b"\r\n");
        let (line, behind) = rest.split_at_checked(end.unwrap_or(rest.len())).unwrap_or((rest, b""));
        let (name, value) = cut(line, b':');
        let odd = value.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0));
        if odd || name.is_empty() || name.len() == line.len() || !name.iter().all(|byte| is_token(*byte)) {
            return Err(Broken("the header of a part has a line that is none"));
        }
        lines.push(line);
        if lines.len() > MAX_LINES {
            return Err(Broken("a part has too many lines of header"));
        }
        match behind.get(2..).filter(|_| end.is_some()) {
            Some(more) => rest = more,
            None => return Ok(lines),
        }
    }
}

/// The name of a part, and of the file that it is.
fn disposition(lines: &[&[u8]]) -> Result<(Vec<u8>, Option<Vec<u8>>), Broken> {
    let mut said =
        lines.iter().map(|line| cut(line, b':')).filter(|(name, _)| name.eq_ignore_ascii_case(b"content-disposition"));
    let (Some((_, value)), None) = (said.next(), said.next()) else { return Err(Broken("a part has no name, or two")) };
    let (kind, rest) = cut(value, b';');
    if !kind.trim_ascii().eq_ignore_ascii_case(b"form-data") {
        return Err(Broken("a part is no field of a form"));
    }
    let (mut field, mut file) = (None, None);
    for (name, value) in parameters(rest)? {
        match &*name {
            b"name" => field = Some(value),
            b"filename" => file = Some(value),
            _ => {}
        }
    }
    Ok((field.ok_or(Broken("a part has no name, or two"))?, file))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(media_type: &str, body: &str) -> Result<(Vec<String>, Vec<String>), Broken> {
        let mut parts = Parts::default();
        multipart(media_type.as_bytes(), body.as_bytes(), &mut parts)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let fields = parts.fields.iter().map(|(name, value)| format!("{}={}", text(name), text(value))).collect();
        let files = parts.files.iter().map(|file| format!("{}={}:{}", text(&file.field), text(&file.name), file.size));
        Ok((fields, files.collect()))
    }

    const TYPE: &str = "multipart/form-data; boundary=bb";

    #[test]
    fn what_browsers_and_libraries_send_is_taken_apart() {
        let body = "--bb\r\nContent-Disposition: form-data; name=\"a b\"\r\n\r\n1\r\n2\r\n--bb\r\ncontent-disposition:form-data;name=f;\
            filename=\"x \\\"y\\\".png\"\r\nContent-Type: image/png\r\n\r\n\n\n--b\r\n--bb\r\nContent-Disposition: form-data; name=\"n\"; \
            filename=\"\"\r\n\r\nseen\r\n--bb--\r\n";
        let (fields, files) = read(TYPE, body).unwrap();
        assert_eq!(fields, ["a b=1\r\n2", "n=seen"]);
        assert_eq!(files, ["f=x \"y\".png:5"]);
        for boundary in ["----WebKitFormBoundary7MA4YWxkTrZu0gW", "\"aa bb\"", "\"a:b\"", "aa; charset=utf-8"] {
            let plain = boundary.trim_matches('"').split(';').next().unwrap();
            let body = format!("--{plain}\r\nContent-Disposition: form-data; name=a\r\n\r\n\r\n--{plain}--");
            let read = read(&format!("multipart/form-data; boundary={boundary}"), &body);
            assert_eq!(read.is_ok(), !boundary.contains("aa bb"), "{boundary}: {read:?}");
        }
    }

    #[test]
    fn what_others_could_read_otherwise_is_refused() {
        let file = "Content-Disposition: form-data; name=\"f\"; filename=\"f\"";
        let part = |header: &str, content: &str| format!("--bb\r\n{header}\r\n\r\n{content}\r\n--bb--\r\n");
        let hidden = "Content-Disposition: form-data; name=\"q\"\n\nATTACK";
        for body in [
            part(file, &format!("x\n--bb\n{hidden}")),
            part(file, &format!("x\r--bb\r{hidden}")),
            part(file, &format!("x\n--bb\r\n{hidden}")),
            part(&format!("X: y\nContent-Disposition: form-data; name=\"q\"\r\n{file}"), "x"),
            part("Content-Disposition: form-data; name=\"f\"; x=\"y\n\nATTACK\"; filename=\"f\"", "x"),
            part("Content-Disposition: form-data; name=f; filename =\"f\"", "x"),
            part("Content-Disposition: form-data; name=f; filename= f", "x"),
            part("Content-Disposition: form-data; name=q; x='; filename=f; '", "x"),
            part("Content-Disposition: form-data; name=f; filename=f; filename=g", "x"),
            part("Content-Disposition: form-data; name=f; filename*=UTF-8''f", "x"),
            part("Content-Disposition: form-data; name=f; filename*0=f", "x"),
            part("Content-Disposition: form-data; name=\"f\"g; filename=f", "x"),
            part("Content-Disposition: attachment; name=f; filename=f", "x"),
            part("Content-Disposition : form-data; name=f", "x"),
            part(&format!("{file}\r\n folded"), "x"),
            part(&format!("{file}\r\nContent-Disposition: form-data; name=q"), "x"),
            part(&["X-A: b"; 20].join("\r\n"), "x"),
            part("", "x"),
            format!("preamble\r\n{}", part(file, "x")),
            part(file, "x") + "behind",
        ] {
            assert!(read(TYPE, &body).is_err(), "{body:?}");
        }
        let body = part("Content-Disposition: form-data; name=a", "b");
        for media_type in [
            "boundary=aa; boundary=bb",
            "boundary=bb; boundary*=x",
            "boundary=bb,b",
            "boundary=\"bb\"b",
            "boundary=''",
            "x=y",
        ] {
            assert!(read(&format!("multipart/form-data; {media_type}"), &body).is_err(), "{media_type}");
        }
    }
}

use std::collections::BTreeMap;

use super::{Client, Response, request};

/// What a browser does with cookies, redirects and forms; the real one is in `scripts/login.cjs`. Hosts are `http://ADDRESS:PORT`, and each has
/// cookies of its own.
#[derive(Clone, Default)]
pub struct Browser {
    cookies: BTreeMap<(String, String), String>,
}

/// Where a browser is.
#[derive(Debug)]
pub struct Page {
    pub url: String,
    pub response: Response,
    /// The addresses that it was sent on from.
    pub trail: Vec<String>,
}

impl Browser {
    /// One exchange, as for a page that is opened.
    pub fn exchange(&mut self, method: &str, url: &str, form: &str) -> Response {
        let page = [("Accept", "text/html,application/xhtml+xml"), ("Sec-Fetch-Mode", "navigate")];
        self.exchange_with(method, url, &page, form)
    }

    /// One exchange with these headers.
    pub fn exchange_with(&mut self, method: &str, url: &str, headers: &[(&str, &str)], form: &str) -> Response {
        let (authority, target) = split(url);
        let cookies = self.cookies(authority);
        let length = form.len().to_string();
        let mut headers = [&[("Host", authority)], headers].concat();
        if !cookies.is_empty() {
            headers.push(("Cookie", &cookies));
        }
        if !form.is_empty() {
            headers.extend([("Content-Type", "application/x-www-form-urlencoded"), ("Content-Length", &length)]);
        }
        let mut client = Client::connect(authority.parse().unwrap());
        client.write((request(method, target, &headers) + form).as_bytes());
        let response = client.read_answer_to(method);
        for (_, cookie) in response.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("set-cookie")) {
            self.keep(authority, cookie);
        }
        response
    }

    fn keep(&mut self, authority: &str, cookie: &str) {
        let (pair, attributes) = cookie.split_once(';').unwrap_or((cookie, ""));
        let (name, value) = pair.split_once('=').unwrap();
        let key = (authority.to_owned(), name.to_owned());
        let attributes = attributes.to_ascii_lowercase();
        if attributes.contains("max-age=0") || attributes.contains("expires=thu, 01 jan 1970") {
            self.cookies.remove(&key);
        } else {
            self.cookies.insert(key, value.to_owned());
        }
    }

    /// What it sends to this host.
    pub fn cookies(&self, authority: &str) -> String {
        let own = self.cookies.iter().filter(|((host, _), _)| host == authority);
        own.map(|((_, name), value)| format!("{name}={value}")).collect::<Vec<_>>().join("; ")
    }

    /// The cookies of a host whose names begin so.
    pub fn named(&self, authority: &str, prefix: &str) -> Vec<(String, String)> {
        let own = self.cookies.iter().filter(|((host, name), _)| host == authority && name.starts_with(prefix));
        own.map(|((_, name), value)| (name.clone(), value.clone())).collect()
    }

    /// Opens a page, and goes wherever it is sent until `stop` is in the address, or it is sent nowhere.
    #[track_caller]
    pub fn open_until(&mut self, url: &str, stop: &str) -> Page {
        let response = self.exchange("GET", url, "");
        self.follow(url, response, stop)
    }

    /// Opens a page, and goes wherever it is sent.
    #[track_caller]
    pub fn open(&mut self, url: &str) -> Page {
        self.open_until(url, "\n")
    }

    /// Sends the form of a page off, and goes wherever it is sent.
    #[track_caller]
    pub fn submit(&mut self, page: &Page, more: &str, stop: &str) -> Page {
        let text = page.response.text();
        let attribute = |tag: &str, name: &str| {
            let (_, rest) = tag.split_once(&format!("{name}=\""))?;
            Some(rest.split_once('"')?.0.to_owned())
        };
        let form = text.split_once("<form").unwrap_or_else(|| panic!("no form on {page:?}")).1;
        let action = attribute(form, "action").unwrap();
        let hidden = form.split("<input").skip(1).filter(|tag| tag.contains("type=\"hidden\""));
        let hidden = hidden.filter_map(|tag| Some(format!("{}={}", attribute(tag, "name")?, attribute(tag, "value")?)));
        let fields: Vec<String> = hidden.chain([more.to_owned()]).filter(|field| !field.is_empty()).collect();
        let url = absolute(&page.url, &action);
        let response = self.exchange("POST", &url, &fields.join("&"));
        self.follow(&url, response, stop)
    }

    fn follow(&mut self, url: &str, mut response: Response, stop: &str) -> Page {
        let (mut url, mut trail) = (url.to_owned(), Vec::new());
        while (301..=303).contains(&response.status) {
            let to = absolute(&url, response.header("location").unwrap());
            trail.push(std::mem::replace(&mut url, to));
            if url.contains(stop) {
                break;
            }
            assert!(trail.len() < 20, "in a circle: {trail:?}");
            response = self.exchange("GET", &url, "");
        }
        Page { url, response, trail }
    }
}

/// The host with its port, and the rest.
fn split(url: &str) -> (&str, &str) {
    let rest = url.strip_prefix("http://").unwrap_or_else(|| panic!("{url}"));
    match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, "/"),
    }
}

fn absolute(from: &str, to: &str) -> String {
    if to.starts_with("http") { to.to_owned() } else { format!("http://{}{to}", split(from).0) }
}

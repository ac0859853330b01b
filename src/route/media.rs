//! Media types, as requests name them in `Accept` and `Content-Type` ([RFC 9110, 8.3.1 and 12.5.1](https://www.rfc-editor.org/rfc/rfc9110#section-8.3.1)).

use http::{HeaderMap, HeaderName, header};

use crate::config::route::MediaType;

/// Whether a request is about this media type: its body is of it, or its client asks for it by name. `*/*` names nothing.
pub(super) fn fits(wanted: &MediaType, headers: &HeaderMap) -> bool {
    let values = |name: HeaderName| headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    let has = |text: &str| text.parse::<MediaType>().is_ok_and(|sent| includes(&sent, wanted));
    values(header::CONTENT_TYPE).any(has)
        || values(header::ACCEPT).flat_map(|list| list.split(',')).filter(|range| !is_refused(range)).any(has)
}

/// The same type, with at least these parameters.
fn includes(sent: &MediaType, wanted: &MediaType) -> bool {
    sent.essence == wanted.essence && wanted.parameters.iter().all(|one| sent.parameters.contains(one))
}

/// `q=0` says that it is not wanted.
fn is_refused(range: &str) -> bool {
    let weight = range.split(';').skip(1).find_map(|parameter| parameter.trim().strip_prefix("q="));
    weight.is_some_and(|weight| weight.parse() == Ok(0.0_f32))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn fits_text(wanted: &str, name: HeaderName, value: &'static str) -> bool {
        fits(&wanted.parse().unwrap(), &HeaderMap::from_iter([(name, HeaderValue::from_static(value))]))
    }

    #[test]
    fn a_type_is_found_among_those_that_a_client_asks_for() {
        let wanted = "application/vnd.orders.v1+json";
        for good in [
            "application/vnd.orders.v1+json",
            "Application/VND.orders.v1+JSON; charset=utf-8",
            "text/html, application/vnd.orders.v1+json;q=0.5, */*",
        ] {
            assert!(fits_text(wanted, header::ACCEPT, good), "{good}");
        }
        for bad in
            ["*/*", "application/*", "application/vnd.orders.v2+json", "application/vnd.orders.v1+json;q=0", "", ","]
        {
            assert!(!fits_text(wanted, header::ACCEPT, bad), "{bad}");
        }
        assert!(fits_text(wanted, header::CONTENT_TYPE, wanted));
        assert!(!fits_text(wanted, header::USER_AGENT, wanted));
    }

    #[test]
    fn parameters_that_are_asked_for_have_to_be_there() {
        let wanted = "application/json; version=2";
        assert!(fits_text(wanted, header::ACCEPT, "application/json;charset=utf-8;Version=\"2\""));
        for bad in ["application/json", "application/json;version=3", "application/json;version=20"] {
            assert!(!fits_text(wanted, header::ACCEPT, bad), "{bad}");
        }
        assert!("application".parse::<MediaType>().is_err() && "a/b; c".parse::<MediaType>().is_err());
    }
}

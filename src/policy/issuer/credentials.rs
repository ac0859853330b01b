//! As whom the gateway asks an issuer.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::{config::types::Secret, policy::place::encode};

/// Where the gateway says who asks ([RFC 6749, 2.3.1](https://www.rfc-editor.org/rfc/rfc6749#section-2.3.1)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Send {
    /// In `Authorization: Basic`.
    #[default]
    Basic,
    /// In the form.
    Body,
}

/// What a question has of it.
pub(in crate::policy) struct Credentials {
    /// The value of `Authorization`.
    pub(in crate::policy) authorization: Option<String>,
    /// What is added to the form; begins with `&` if there is anything.
    pub(in crate::policy) form: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials(..)")
    }
}

impl Credentials {
    /// Those of a client. One without a secret says only who it is.
    pub(in crate::policy) fn new(id: &str, secret: Option<&Secret>, send: Send) -> Self {
        let id = encode(id.as_bytes());
        let Some(secret) = secret.map(|secret| encode(secret.expose().as_bytes())) else {
            return Self { authorization: None, form: format!("&client_id={id}") };
        };
        match send {
            Send::Basic => {
                let authorization = format!("Basic {}", STANDARD.encode(format!("{id}:{secret}")));
                Self { authorization: Some(authorization), form: String::new() }
            }
            Send::Body => Self { authorization: None, form: format!("&client_id={id}&client_secret={secret}") },
        }
    }
}

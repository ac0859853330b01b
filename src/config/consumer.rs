//! `consumers`: who is calling.

use schemars::JsonSchema;
use serde::Deserialize;

use super::types::{Name, Secret};

/// Someone who calls, with groups and credentials. The name is the key in the file.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Consumer {
    /// Groups that policies may ask for; sent upstream as `X-Consumer-Groups`.
    pub groups: Vec<Name>,
    /// Keys for the `api_key` policy; better `${file:PATH}` or `${env:NAME}` than the text itself.
    pub api_keys: Vec<Secret>,
    /// Tokens that the `jwt` policy takes for this consumer.
    pub tokens: Vec<TokenSubject>,
}

/// The subject of a token, which is unique only with its issuer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenSubject {
    /// The `iss` claim.
    pub issuer: String,
    /// The `sub` claim.
    pub subject: String,
}

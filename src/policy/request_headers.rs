//! stub
use super::{Policy, Stage};
use crate::runtime::Build;
use schemars::JsonSchema;
use serde::Deserialize;
/// What `request_headers` takes.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "RequestHeaders")]
pub struct Config {}
/// stub
#[derive(Debug)]
pub struct RequestHeaders;
impl Policy for RequestHeaders {
    const STAGE: Stage = Stage::Guard;
    type Config = Config;
    fn compile(_: &Config, _: &mut Build<'_>) -> Result<Self, String> {
        Ok(Self)
    }
}

//! The JSON Schema of the configuration, for editors.

/// The schema, as `torana schema` prints it.
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(super::Config).to_value()
}

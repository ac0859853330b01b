//! stub
pub mod context;

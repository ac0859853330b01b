//! stub
/// stub
#[derive(Debug)]
pub struct Rewrite;
impl Rewrite {
    /// stub
    pub fn compile(_: &crate::config::route::Rewrite, _: &[Box<str>]) -> Self {
        Self
    }
}

//! stub
pub mod path;
pub mod pattern;
pub mod rewrite;
/// stub
#[derive(Debug)]
pub struct RouteTable<T>(Vec<T>);
impl<T> RouteTable<T> {
    /// stub
    pub fn compile(routes: Vec<(&crate::config::route::Match, T)>) -> Self {
        Self(routes.into_iter().map(|r| r.1).collect())
    }
}

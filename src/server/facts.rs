//! stub
use std::sync::Arc;
use tokio::sync::watch;
use super::sockets::Sockets;
use crate::{config::telemetry::Admin, runtime::Runtime};
pub(super) struct ProcessFacts { runtime: Arc<Runtime>, listeners: Vec<String>, admin: Option<String>, stopped: watch::Receiver<bool> }
impl ProcessFacts {
    pub(super) fn new(runtime: Arc<Runtime>, sockets: &Sockets, stopped: watch::Receiver<bool>) -> Self {
        Self { runtime, listeners: sockets.listeners.iter().map(|s| s.name.clone()).collect(), admin: sockets.admin.as_ref().map(|s| s.name.clone()), stopped }
    }
    pub(super) fn started(&self) {
        for l in &self.listeners { log::info!("listening on {l}"); }
        if let Some(a) = &self.admin { log::info!("admin on {a}"); }
        log::info!("ready: generation {}", self.runtime.snapshot().generation);
        let _ = &self.runtime; let _ = &self.stopped;
    }
}
pub(super) struct App;
#[async_trait::async_trait]
impl pingora::apps::http_app::ServeHttp for App {
    async fn response(&self, _: &mut pingora::protocols::http::ServerSession) -> http::Response<Vec<u8>> { http::Response::new(vec![]) }
}
pub(super) fn app(_: &Admin, _: &Arc<ProcessFacts>) -> App { App }

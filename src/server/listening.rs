//! A Pingora service on sockets that are bound already, and that stops when the gateway says so.

use async_trait::async_trait;
use pingora::{
    apps::ServerApp,
    server::{ListenFds, ShutdownWatch},
    services::{Service as PingoraService, listening::Service},
};
use tokio::sync::watch;

use super::{heartbeat::Heartbeat, sockets::Socket};

/// A service with its sockets.
pub(super) struct Listening<A> {
    service: Service<A>,
    sockets: Vec<Socket>,
    stop: watch::Receiver<bool>,
    heartbeat: Option<Heartbeat>,
}

impl<A> Listening<A> {
    /// `stop` ends the service; Pingora's own signal would come only after its grace period has begun.
    pub(super) fn new((service, sockets): (Service<A>, Vec<Socket>), stop: watch::Receiver<bool>) -> Self {
        Self { service, sockets, stop, heartbeat: None }
    }

    /// Its threads say that they are alive.
    pub(super) fn with(self, heartbeat: Heartbeat) -> Self {
        Self { heartbeat: Some(heartbeat), ..self }
    }
}

#[async_trait]
impl<A: ServerApp + Send + Sync + 'static> PingoraService for Listening<A> {
    async fn start_service(&mut self, fds: Option<ListenFds>, _: ShutdownWatch, tasks: usize) {
        if let Some(fds) = &fds {
            let mut table = fds.lock();
            for socket in &mut self.sockets {
                if let Some(fd) = socket.take() {
                    table.add(socket.name.clone(), fd);
                }
            }
        }
        if let Some(heartbeat) = self.heartbeat.take() {
            tokio::spawn(heartbeat.run());
        }
        self.service.start_service(fds, self.stop.clone(), tasks).await;
    }

    fn name(&self) -> &str {
        PingoraService::name(&self.service)
    }

    fn threads(&self) -> Option<usize> {
        PingoraService::threads(&self.service)
    }
}

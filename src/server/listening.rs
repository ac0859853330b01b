//! A Pingora service on sockets that are bound already, and that stops when the gateway says so.

use async_trait::async_trait;
use pingora::{
    apps::ServerApp,
    server::{ListenFds, ShutdownWatch},
    services::{Service as PingoraService, listening::Service},
};
use tokio::sync::watch;

use super::{heartbeat::Heartbeat, quic, sockets::Socket};

/// A service with its sockets.
pub(super) struct Listening<A> {
    service: Service<A>,
    sockets: Vec<Socket>,
    stop: watch::Receiver<bool>,
    heartbeat: Option<Heartbeat>,
    quic: Vec<quic::Listener>,
    quic_shared: Option<quic::Shared>,
}

impl<A> Listening<A> {
    /// `stop` ends the service; Pingora's own signal would come only after its grace period has begun.
    pub(super) fn new((service, sockets): (Service<A>, Vec<Socket>), stop: watch::Receiver<bool>) -> Self {
        Self { service, sockets, stop, heartbeat: None, quic: Vec::new(), quic_shared: None }
    }

    /// Its threads say that they are alive.
    pub(super) fn with(self, heartbeat: Heartbeat) -> Self {
        Self { heartbeat: Some(heartbeat), ..self }
    }

    /// It serves these UDP sockets as well.
    pub(super) fn with_quic(self, quic: Vec<quic::Listener>, shared: quic::Shared) -> Self {
        Self { quic, quic_shared: Some(shared), ..self }
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
        for (listener, shared) in self.quic.drain(..).zip(self.quic_shared.iter().cycle()) {
            tokio::spawn(listener.run(shared.clone()));
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

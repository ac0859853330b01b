//! The sockets of the listeners, bound before anything else starts.
//!
//! They are bound here and handed to Pingora by name, for two reasons: a port that is taken is an error with a hint instead
//! of a panic after 30 tries, and with port 0 the port that was taken is known.

use std::{
    io,
    net::SocketAddr,
    os::fd::{IntoRawFd, OwnedFd},
    path::PathBuf,
};

use pingora::listeners::{L4BufferSettings, ListenerConfig};
use socket2::{Domain, Protocol, SockAddr, Type};

use super::StartError;
use crate::{
    config::{Diagnostic, Report, Validated, steps, telemetry::AdminAddress},
    tls::Certificates,
};

/// Connections that may wait to be accepted; the kernel's `net.core.somaxconn` bounds it.
const BACKLOG: i32 = 65_535;

/// The read buffer of a connection. Measured: 41 KiB of memory for an idle one, against 89 with Pingora's 64 KiB.
const READ_BUFFER: usize = 16 << 10;

/// The write buffer of a connection: Pingora's own default.
const WRITE_BUFFER: usize = 1460;

/// A bound socket, and the name under which Pingora finds it.
#[derive(Debug)]
pub(super) struct Socket {
    pub(super) name: String,
    local: Option<SocketAddr>,
    fd: Option<OwnedFd>,
}

impl Socket {
    /// The address that it is bound to, with its real port.
    pub(super) fn inet(&self) -> Option<SocketAddr> {
        self.local
    }

    /// How Pingora is told about it.
    pub(super) fn listener_config(&self) -> ListenerConfig {
        let config = match self.local {
            Some(_) => ListenerConfig::tcp(self.name.clone()),
            // Pingora would open it to everybody.
            None => ListenerConfig::uds(self.name.clone()).permissions(owner_only()),
        };
        config.l4_buffer(L4BufferSettings::new(READ_BUFFER, WRITE_BUFFER))
    }

    /// Hands the descriptor over; Pingora closes it.
    pub(super) fn take(&mut self) -> Option<i32> {
        self.fd.take().map(IntoRawFd::into_raw_fd)
    }
}

/// All sockets of a process.
#[derive(Debug)]
pub(super) struct Sockets {
    /// In the order of the file.
    pub(super) listeners: Vec<Socket>,
    pub(super) admin: Option<Socket>,
}

pub(super) fn bind_all(config: &Validated) -> Result<Sockets, StartError> {
    let listeners = config.listeners.iter().map(|listener| bind(listener.address.0));
    Ok(Sockets {
        listeners: listeners.collect::<Result<_, _>>()?,
        admin: match config.admin.as_ref().map(|admin| &admin.address) {
            None => None,
            Some(AdminAddress::Ip(address)) => Some(bind(address.0)?),
            Some(AdminAddress::Unix(path)) => Some(bind_unix(path)?),
        },
    })
}

fn bind(address: SocketAddr) -> Result<Socket, StartError> {
    let open = || {
        let socket = socket2::Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        let local = socket.local_addr()?.as_socket();
        Ok((local, OwnedFd::from(socket)))
    };
    let (local, fd) = open().map_err(|error| StartError::Bind { address: address.to_string(), error })?;
    let local = local.unwrap_or(address);
    Ok(Socket { name: local.to_string(), local: Some(local), fd: Some(fd) })
}

fn owner_only() -> std::fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(0o600)
}

/// A Unix socket that only its owner may use. A socket that no one listens on any more is replaced; anything else at the
/// path is an error.
fn bind_unix(path: &PathBuf) -> Result<Socket, StartError> {
    let open = || {
        let address = SockAddr::unix(path)?;
        let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM, None)?;
        if let Ok(meta) = std::fs::symlink_metadata(path) {
            use std::os::unix::fs::FileTypeExt as _;
            if !meta.file_type().is_socket() {
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, "it exists and is no socket"));
            }
            if socket.connect(&address).is_ok() {
                return Err(io::Error::from(io::ErrorKind::AddrInUse));
            }
            std::fs::remove_file(path)?;
        }
        let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.bind(&address)?;
        std::fs::set_permissions(path, owner_only())?;
        socket.listen(128)?;
        socket.set_nonblocking(true)?;
        Ok(OwnedFd::from(socket))
    };
    let fd = open().map_err(|error| StartError::Bind { address: format!("unix:{}", path.display()), error })?;
    Ok(Socket { name: path.display().to_string(), local: None, fd: Some(fd) })
}

/// The certificates of every listener, in the order of the file; `None` for one that speaks plain text.
pub(super) fn certificates(config: &Validated) -> Result<Vec<Option<Certificates>>, Report> {
    let all = config.listeners.iter().enumerate().map(|(i, listener)| {
        let Some(tls) = &listener.tls else {
            return Ok(None);
        };
        Certificates::load(tls).map(Some).map_err(|(index, message)| {
            let place = config.place(&steps!["listeners", i, "tls", "certificates", index]);
            config.report(vec![Diagnostic::error(place, message)])
        })
    });
    all.collect()
}

//! The sockets of the listeners, bound before anything else starts.
//!
//! They are bound here and handed to Pingora by name, for two reasons: a port that is taken is an error with a hint instead
//! of a panic after 30 tries, and with port 0 the port that was taken is known.

use std::{
    io,
    net::SocketAddr,
    os::fd::{IntoRawFd, OwnedFd},
    path::Path,
};

use pingora::listeners::{L4BufferSettings, ListenerConfig};
use socket2::{Domain, Protocol, SockAddr, Type};

use super::{
    StartError,
    handover::Predecessor,
    quic::{self, Mark},
};
use crate::{
    config::{
        Validated,
        listener::{BindAddress, Mode},
    },
    proxy::connection::Local,
};

/// Connections that may wait to be accepted; the kernel's `net.core.somaxconn` bounds it.
const BACKLOG: i32 = 65_535;

/// The read buffer of a connection: none. Requests are read into what holds them, and while there is none, nothing is
/// set aside (`proxy::turns`).
const READ_BUFFER: usize = 0;

/// So much that a client has no room for yet is left to the kernel. It would take megabytes for each, and memory of the
/// kernel that slow readers fill is missing to everybody else's connections.
const UNSENT: u32 = 32 << 10;

/// The write buffer of a connection: Pingora's own default.
const WRITE_BUFFER: usize = 1460;

/// A bound socket, and the name under which Pingora finds it.
#[derive(Debug)]
pub(super) struct Socket {
    /// The address as in the file.
    configured: String,
    pub(super) name: String,
    local: Local,
    mode: Mode,
    fd: Option<OwnedFd>,
}

impl Socket {
    /// The address that it is bound to, with its real port.
    pub(super) fn local(&self) -> &Local {
        &self.local
    }

    /// The same for people.
    pub(super) fn shown(&self) -> String {
        match &self.local {
            Local::Inet(address) => address.to_string(),
            Local::Unix(path) => format!("unix:{}", path.display()),
        }
    }

    /// How Pingora is told about it.
    pub(super) fn listener_config(&self) -> ListenerConfig {
        let config = match &self.local {
            Local::Inet(_) => ListenerConfig::tcp(self.name.clone()),
            // Pingora would open it to everybody.
            Local::Unix(_) => ListenerConfig::uds(self.name.clone()).permissions(permissions(self.mode)),
        };
        config.l4_buffer(L4BufferSettings::new(READ_BUFFER, WRITE_BUFFER))
    }

    /// Hands the descriptor over; Pingora closes it.
    pub(super) fn take(&mut self) -> Option<i32> {
        self.fd.take().map(IntoRawFd::into_raw_fd)
    }
}

/// What HTTP/3 has beside the sockets of listeners, by their position.
pub(super) type Quic = Vec<(usize, quic::Bound)>;

/// A socket to hand to a process that takes over.
#[derive(Debug)]
pub(super) struct Kept {
    /// The address as in the file.
    pub(super) configured: String,
    /// The address with its real port.
    pub(super) local: String,
    pub(super) fd: OwnedFd,
}

/// All sockets of a process.
#[derive(Debug)]
pub(super) struct Sockets {
    /// In the order of the file.
    pub(super) listeners: Vec<Socket>,
    pub(super) admin: Option<Socket>,
    pub(super) quic: Quic,
    /// What of it goes to a process that takes over.
    quic_kept: Vec<Kept>,
}

impl Sockets {
    /// A second descriptor for each, for a process that takes over.
    pub(super) fn keep(&mut self) -> io::Result<Vec<Kept>> {
        let kept = |socket: &Socket| {
            let fd = socket.fd.as_ref().map(OwnedFd::try_clone)?;
            let (configured, local) = (socket.configured.clone(), socket.name.clone());
            Some(fd.map(|fd| Kept { configured, local, fd }))
        };
        let sockets = self.listeners.iter().chain(&self.admin).filter_map(kept);
        sockets.chain(self.quic_kept.drain(..).map(Ok)).collect()
    }
}

/// Binds what the process before did not bind already.
pub(super) fn bind_all(config: &Validated, before: Option<&Predecessor>, mark: Mark) -> Result<Sockets, StartError> {
    let mut listeners = Vec::with_capacity(config.listeners.len());
    let mut udp = UdpSockets::new(mark);
    for (i, listener) in config.listeners.iter().enumerate() {
        let open = || match &listener.address {
            BindAddress::Ip(address) => bind("listener", address.0, before),
            BindAddress::Unix(path) => bind_unix(path, listener.mode.unwrap_or_default(), before),
        };
        let mut socket = open()?;
        if listener.http3.options().is_some() {
            // The port of the one kind that is free may be taken for the other.
            let mut tries = if listener.address.ip().is_some_and(|address| address.port() == 0) { 16 } else { 1 };
            while let Err(error) = udp.bind(i, &socket, before) {
                tries -= 1;
                if tries == 0 {
                    return Err(error);
                }
                socket = open()?;
            }
        }
        listeners.push(socket);
    }
    let sockets = Sockets {
        listeners,
        quic: udp.bound,
        quic_kept: udp.kept,
        admin: match config.admin.as_ref().map(|admin| &admin.address) {
            None => None,
            Some(BindAddress::Ip(address)) => Some(bind("admin", address.0, before)?),
            Some(BindAddress::Unix(path)) => Some(bind_unix(path, OWNER_ONLY, before)?),
        },
    };
    if let Some(before) = before {
        before.close_rest();
    }
    Ok(sockets)
}

fn bind(role: &str, address: SocketAddr, before: Option<&Predecessor>) -> Result<Socket, StartError> {
    // Port 0 is another port for each.
    let configured = if address.port() == 0 { format!("{role} {address}") } else { address.to_string() };
    if let Some(taken) = before.and_then(|before| before.take(&configured)) {
        let local = Local::Inet(taken.local.parse().unwrap_or(address));
        return Ok(Socket { configured, name: taken.local, local, mode: OWNER_ONLY, fd: Some(taken.fd) });
    }
    let open = || {
        let socket = socket2::Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        // Connections have it from the listener.
        socket.set_tcp_notsent_lowat(UNSENT)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        let local = socket.local_addr()?.as_socket();
        Ok((local, OwnedFd::from(socket)))
    };
    let (local, fd) = open().map_err(|error| StartError::Bind { address: address.to_string(), error })?;
    let local = local.unwrap_or(address);
    Ok(Socket { configured, name: local.to_string(), local: Local::Inet(local), mode: OWNER_ONLY, fd: Some(fd) })
}

/// The UDP sockets of listeners with HTTP/3.
struct UdpSockets {
    mark: Mark,
    bound: Quic,
    kept: Vec<Kept>,
}

impl UdpSockets {
    fn new(mark: Mark) -> Self {
        Self { mark, bound: Vec::new(), kept: Vec::new() }
    }

    /// Binds the one beside this TCP socket, or takes it over with what leads to the process that has it.
    fn bind(&mut self, position: usize, beside: &Socket, before: Option<&Predecessor>) -> Result<(), StartError> {
        let Local::Inet(local) = beside.local else { return Ok(()) };
        let name = |part: &str| format!("{part} {}", beside.configured);
        let address = format!("{local} (UDP)");
        let system = |error| StartError::Bind { address: address.clone(), error };
        let taken = before.and_then(|before| before.take(&name("udp")));
        let udp = match taken {
            Some(taken) => taken.fd,
            None => open_udp(local).map_err(system)?,
        };
        let before = before.and_then(|before| before.take(&name("quic")));
        let before = before.and_then(|taken| Some((taken.fd, Mark::from_text(&taken.local)?)));
        let (inbox, other) = quic::inbox_pair().map_err(system)?;
        let second = udp.try_clone().map_err(system)?;
        self.kept.push(Kept { configured: name("udp"), local: local.to_string(), fd: second });
        self.kept.push(Kept { configured: name("quic"), local: self.mark.to_text(), fd: other });
        self.bound.push((position, quic::Bound { local, udp, inbox, before }));
        Ok(())
    }
}

/// As much as the kernel allows: packets come in bursts.
const UDP_BUFFER: usize = 4 << 20;

fn open_udp(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = socket2::Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.bind(&address.into())?;
    socket.set_nonblocking(true)?;
    for grown in [socket.set_recv_buffer_size(UDP_BUFFER), socket.set_send_buffer_size(UDP_BUFFER)] {
        if let Err(error) = grown {
            log::debug!("the buffer of a UDP socket stays as it is: {error}");
        }
    }
    Ok(socket.into())
}

/// The permissions of the admin listener's socket.
const OWNER_ONLY: Mode = Mode(0o600);

fn permissions(mode: Mode) -> std::fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(mode.0)
}

/// A Unix socket with these permissions. A socket that no one listens on any more is replaced; anything else at the path is
/// an error.
fn bind_unix(path: &Path, mode: Mode, before: Option<&Predecessor>) -> Result<Socket, StartError> {
    let name = path.display().to_string();
    let configured = format!("unix:{name}");
    let local = Local::Unix(path.to_owned());
    if let Some(taken) = before.and_then(|before| before.take(&configured)) {
        return Ok(Socket { configured, name, local, mode, fd: Some(taken.fd) });
    }
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
        // Nobody can connect before it listens.
        std::fs::set_permissions(path, permissions(mode))?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok(OwnedFd::from(socket))
    };
    let fd = open().map_err(|error| StartError::Bind { address: configured.clone(), error })?;
    Ok(Socket { configured, name, local, mode, fd: Some(fd) })
}

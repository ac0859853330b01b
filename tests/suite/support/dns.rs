use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{Arc, Mutex},
};

/// What a name server says about every name.
#[derive(Clone, Debug)]
pub enum Says {
    /// These addresses, for so many seconds.
    Addresses(Vec<IpAddr>, u32),
    /// These services, by priority, weight and address, for so many seconds; of names like `ip-127-0-0-1.test` the address.
    Services(Vec<(u16, u16, SocketAddr)>, u32),
    /// That there is no such name.
    NoSuchName,
    /// That it cannot say.
    Failure,
    Nothing,
}

impl Says {
    pub fn addresses(all: &[&str], ttl: u32) -> Self {
        Self::Addresses(all.iter().map(|ip| ip.parse().unwrap()).collect(), ttl)
    }
}

/// A name server over UDP. It stops when it is dropped.
pub struct Dns {
    address: SocketAddr,
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    says: Says,
    questions: usize,
    stopped: bool,
}

impl Dns {
    pub fn start(says: Says) -> Self {
        Self::on("127.0.0.1:0".parse().unwrap(), says)
    }

    /// The same on a certain address.
    pub fn on(address: SocketAddr, says: Says) -> Self {
        let mut bound = UdpSocket::bind(address);
        // One that was there may just be ending.
        super::eventually("the address is free", || {
            if bound.is_err() {
                bound = UdpSocket::bind(address);
            }
            bound.is_ok()
        });
        let socket = bound.unwrap();
        let address = socket.local_addr().unwrap();
        let shared = Arc::new(Mutex::new(Shared { says, questions: 0, stopped: false }));
        let server = Self { address, shared: Arc::clone(&shared) };
        std::thread::spawn(move || {
            let mut buffer = [0; 1500];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let says = {
                    let mut shared = shared.lock().unwrap();
                    if shared.stopped {
                        return;
                    }
                    shared.questions += 1;
                    shared.says.clone()
                };
                if let Some(answer) = answer(&buffer[..length], &says) {
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        server
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Says something else from now on.
    pub fn say(&self, says: Says) {
        self.shared.lock().unwrap().says = says;
    }

    /// How many questions it was asked.
    pub fn questions(&self) -> usize {
        self.shared.lock().unwrap().questions
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.shared.lock().unwrap().stopped = true;
        let _ = UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.send_to(b"stop", self.address));
    }
}

/// [RFC 1035, 4](https://www.rfc-editor.org/rfc/rfc1035#section-4)
fn answer(question: &[u8], says: &Says) -> Option<Vec<u8>> {
    let (addresses, ttl, code) = match says {
        Says::Services(services, ttl) => return services_answer(question, services, *ttl),
        Says::Addresses(addresses, ttl) => (addresses.as_slice(), *ttl, 0),
        Says::NoSuchName => (&[][..], 0, 3),
        Says::Failure => (&[][..], 0, 2),
        Says::Nothing => return None,
    };
    let (end, kind) = end_and_kind(question)?;
    let records: Vec<Vec<u8>> = addresses.iter().filter_map(|ip| data(*ip, kind)).collect();
    Some(reply(question, end, kind, &records, ttl, code))
}

/// Where the question ends, and what it asks for.
fn end_and_kind(question: &[u8]) -> Option<(usize, u16)> {
    // The name ends with an empty label; type and class follow.
    let end = 12 + question.get(12..)?.iter().position(|byte| *byte == 0)? + 5;
    Some((end, u16::from_be_bytes([question[end - 4], question[end - 3]])))
}

fn data(ip: IpAddr, kind: u16) -> Option<Vec<u8>> {
    match (ip, kind) {
        (IpAddr::V4(ip), 1) => Some(ip.octets().to_vec()),
        (IpAddr::V6(ip), 28) => Some(ip.octets().to_vec()),
        _ => None,
    }
}

/// [RFC 2782](https://www.rfc-editor.org/rfc/rfc2782)
fn services_answer(question: &[u8], services: &[(u16, u16, SocketAddr)], ttl: u32) -> Option<Vec<u8>> {
    const SRV: u16 = 33;
    let (end, kind) = end_and_kind(question)?;
    if kind != SRV {
        let label = question.get(13..13 + usize::from(question[12]))?;
        let ip = std::str::from_utf8(label).ok()?.strip_prefix("ip-")?.replace('-', ".").parse().ok()?;
        let records: Vec<Vec<u8>> = data(ip, kind).into_iter().collect();
        return Some(reply(question, end, kind, &records, ttl, 0));
    }
    let records: Vec<Vec<u8>> = services
        .iter()
        .map(|(priority, weight, address)| {
            let label = format!("ip-{}", address.ip().to_string().replace('.', "-"));
            let mut data = Vec::new();
            for number in [*priority, *weight, address.port()] {
                data.extend(number.to_be_bytes());
            }
            for label in [label.as_str(), "test", ""] {
                data.push(u8::try_from(label.len()).unwrap());
                data.extend(label.as_bytes());
            }
            data
        })
        .collect();
    Some(reply(question, end, kind, &records, ttl, 0))
}

fn reply(question: &[u8], end: usize, kind: u16, records: &[Vec<u8>], ttl: u32, code: u8) -> Vec<u8> {
    let mut bytes = question[..2].to_vec();
    bytes.extend([0x81, 0x80 | code, 0, 1, 0, u8::try_from(records.len()).unwrap(), 0, 0, 0, 0]);
    bytes.extend(&question[12..end]);
    for data in records {
        bytes.extend([0xc0, 12]);
        bytes.extend(kind.to_be_bytes());
        bytes.extend(1_u16.to_be_bytes());
        bytes.extend(ttl.to_be_bytes());
        bytes.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
        bytes.extend(data);
    }
    bytes
}

//! Connections to Redis and Valkey: one server, a cluster, or whoever the sentinels say.

use std::{fs, path::PathBuf, time::Duration};

use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _, RedisConnectionInfo,
    RedisError, RedisResult, ScriptInvocation, TlsCertificates, TlsMode,
    aio::MultiplexedConnection,
    cluster::ClusterClient,
    cluster_async::ClusterConnection,
    sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType},
};
use tokio::{sync::Mutex, time::timeout};

use crate::{
    config::store::{Redis, RedisMode},
    digest::sha256,
};

/// How a connection is made.
pub(super) struct Dial {
    way: Way,
    fingerprint: String,
}

enum Way {
    Single(Client),
    Cluster(ClusterClient),
    Sentinel(Mutex<SentinelClient>),
}

/// A connection. Its copies send on the same one.
pub(super) enum Live {
    Single(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Dial {
    pub(super) fn compile(config: &Redis) -> Result<Self, String> {
        // The library asks for the process's own.
        pingora::tls::install_default_crypto_provider();
        let roots = match config.tls.as_ref().and_then(|tls| tls.ca.as_ref()) {
            Some(path) => Some(fs::read(path).map_err(|error| format!("authorities in {}: {error}", path.display()))?),
            None => None,
        };
        let fingerprint = format!("{config:?}{:?}", config.password.as_ref().map(|secret| secret.expose().to_owned()));
        let fingerprint = sha256(&[fingerprint.as_bytes(), roots.as_deref().unwrap_or_default()].concat());
        let way = compile(config, roots).map_err(|error| error.to_string())?;
        Ok(Self { way, fingerprint: hex::encode(fingerprint.get(..8).unwrap_or_default()) })
    }

    /// Changes with the settings.
    pub(super) fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    pub(super) async fn connect(&self) -> Result<Live, String> {
        let connected = match &self.way {
            Way::Single(client) => {
                client.get_multiplexed_async_connection_with_config(&unhurried()).await.map(Live::Single)
            }
            Way::Cluster(client) => client.get_async_connection().await.map(Live::Cluster),
            Way::Sentinel(client) => {
                client.lock().await.get_async_connection_with_config(&unhurried()).await.map(Live::Single)
            }
        };
        connected.map_err(|error| error.to_string())
    }
}

/// Whoever asks knows how long to wait.
fn unhurried() -> AsyncConnectionConfig {
    AsyncConnectionConfig::new().set_response_timeout(None).set_connection_timeout(None)
}

fn compile(config: &Redis, roots: Option<Vec<u8>>) -> RedisResult<Way> {
    let certificates = TlsCertificates { client_tls: None, root_cert: roots };
    let is_secure = config.tls.is_some();
    let address = |text: &String| address(text, is_secure);
    match config.mode {
        RedisMode::Single => {
            let first = config.servers.first().map_or_else(|| ConnectionAddr::Unix(PathBuf::new()), address);
            let info = info(config, first)?;
            Ok(Way::Single(if is_secure { Client::build_with_tls(info, certificates)? } else { Client::open(info)? }))
        }
        RedisMode::Cluster => {
            let nodes =
                config.servers.iter().map(|server| info(config, address(server))).collect::<RedisResult<Vec<_>>>()?;
            let mut cluster = ClusterClient::builder(nodes).retries(1).connection_timeout(Duration::from_secs(1));
            if is_secure {
                cluster = cluster.tls(TlsMode::Secure).certs(certificates);
            }
            Ok(Way::Cluster(cluster.build()?))
        }
        RedisMode::Sentinel => {
            let name = config.master.clone().unwrap_or_default();
            let mut sentinels =
                SentinelClientBuilder::new(config.servers.iter().map(address), name, SentinelServerType::Master)?
                    .set_client_to_redis_db(config.database.into());
            if let Some(username) = &config.username {
                sentinels = sentinels.set_client_to_redis_username(username);
            }
            if let Some(password) = &config.password {
                sentinels = sentinels.set_client_to_redis_password(password.expose());
            }
            if let Some(password) = &config.sentinel_password {
                sentinels = sentinels.set_client_to_sentinel_password(password.expose());
            }
            if is_secure {
                sentinels = sentinels
                    .set_client_to_redis_tls_mode(TlsMode::Secure)
                    .set_client_to_redis_certificates(certificates.clone())
                    .set_client_to_sentinel_tls_mode(TlsMode::Secure)
                    .set_client_to_sentinel_certificates(certificates);
            }
            Ok(Way::Sentinel(Mutex::new(sentinels.build()?)))
        }
    }
}

fn info(config: &Redis, address: ConnectionAddr) -> RedisResult<ConnectionInfo> {
    let mut redis = RedisConnectionInfo::default().set_db(config.database.into());
    if let Some(username) = &config.username {
        redis = redis.set_username(username);
    }
    if let Some(password) = &config.password {
        redis = redis.set_password(password.expose());
    }
    Ok(address.into_connection_info()?.set_redis_settings(redis))
}

fn address(text: &str, is_secure: bool) -> ConnectionAddr {
    if let Some(path) = text.strip_prefix("unix:") {
        return ConnectionAddr::Unix(path.into());
    }
    // Looked at when the file was checked.
    let (host, port) = split(text).unwrap_or((text, 0));
    let host = host.to_owned();
    if is_secure {
        ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
    } else {
        ConnectionAddr::Tcp(host, port)
    }
}

/// Host and port of a server: `10.0.0.5:6379`, `[::1]:6379`, `redis.internal:6379`.
pub(crate) fn split(text: &str) -> Option<(&str, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_one = !host.is_empty() && (bare.is_some() || !host.contains(':')) && !host.contains(['/', '@', ' ']);
    let port = port.parse().ok().filter(|port| *port != 0)?;
    is_one.then_some((bare.unwrap_or(host), port))
}

impl Live {
    pub(super) async fn invoke(&self, call: &ScriptInvocation<'_>) -> RedisResult<Vec<i64>> {
        match self {
            Self::Single(connection) => call.invoke_async(&mut connection.clone()).await,
            Self::Cluster(connection) => call.invoke_async(&mut connection.clone()).await,
        }
    }

    /// Whether it answers, and may be written to.
    pub(super) async fn ping(&self, patience: Duration) -> Result<(), String> {
        let asked = async {
            match self {
                Self::Single(connection) => {
                    let role: redis::Value = redis::cmd("ROLE").query_async(&mut connection.clone()).await?;
                    Ok(!is_replica(&role))
                }
                Self::Cluster(connection) => {
                    redis::cmd("PING").query_async::<redis::Value>(&mut connection.clone()).await.map(|_| true)
                }
            }
        };
        match timeout(patience, asked).await {
            Ok(Ok(true)) => Ok(()),
            Ok(Ok(false)) => Err("it has become a replica".to_owned()),
            // Somebody who may not ask for the role need not.
            Ok(Err(error)) if error.code() == Some("NOPERM") => Ok(()),
            Ok(Err(error)) => {
                Err(RedisResult::<()>::Err(error).map_err(|error| error.to_string()).err().unwrap_or_default())
            }
            Err(_) => Err("it does not answer".to_owned()),
        }
    }
}

/// Whether nothing can be asked any more: the connection is broken, or the server is not the one to ask now.
pub(super) fn is_away(error: &RedisError) -> bool {
    const CODES: [&str; 6] = ["READONLY", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "NOAUTH", "NOREPLICAS"];
    match error.code() {
        Some(code) => CODES.contains(&code),
        None => error.is_io_error() || error.is_connection_dropped() || error.is_unrecoverable_error(),
    }
}

fn is_replica(role: &redis::Value) -> bool {
    let redis::Value::Array(parts) = role else { return false };
    match parts.first() {
        Some(redis::Value::BulkString(name)) => name == b"slave",
        Some(redis::Value::SimpleString(name)) => name == "slave",
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_a_host_and_a_port() {
        assert_eq!(split("10.0.0.5:6379"), Some(("10.0.0.5", 6379)));
        assert_eq!(split("[::1]:6379"), Some(("::1", 6379)));
        assert_eq!(split("redis.internal:1"), Some(("redis.internal", 1)));
        for wrong in ["", "redis", ":6379", "redis:", "redis:0", "::1:6379", "redis://a:1", "redis:70000", "u@h:1"] {
            assert_eq!(split(wrong), None, "{wrong}");
        }
    }
}

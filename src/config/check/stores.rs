//! `stores`: servers that can be found, and settings that go together.

use super::File;
use crate::{
    config::{steps, store::RedisMode},
    store::split,
};

pub(super) fn check(file: &mut File<'_>) {
    for (name, store) in &file.config.stores {
        let redis = &store.redis;
        let at = |key: &str| steps!["stores", name.as_str(), "redis", key];
        if redis.servers.is_empty() {
            file.error(&at("servers"), "where? Write `servers: [\"HOST:PORT\"]`");
        }
        for (i, server) in redis.servers.iter().enumerate() {
            if !server.starts_with("unix:/") && split(server).is_none() {
                let way = steps!["stores", name.as_str(), "redis", "servers", i];
                file.error(&way, format!("`{server}` is no server: write `HOST:PORT` or `unix:/PATH`"));
            }
        }
        let wrong = match redis.mode {
            RedisMode::Single if redis.servers.len() > 1 => Some((
                "servers",
                "several servers are a cluster or sentinels: write `mode: cluster` or `mode: sentinel`",
            )),
            RedisMode::Sentinel if redis.master.is_none() => {
                Some(("mode", "sentinels know several servers: which? Write `master: NAME`"))
            }
            RedisMode::Cluster if redis.database != 0 => Some(("database", "a cluster has only the database 0")),
            RedisMode::Single | RedisMode::Cluster | RedisMode::Sentinel => None,
        };
        if let Some((key, why)) = wrong {
            file.error(&at(key), why);
        }
        if redis.mode != RedisMode::Sentinel && (redis.master.is_some() || redis.sentinel_password.is_some()) {
            let key = if redis.master.is_some() { "master" } else { "sentinel_password" };
            file.error(&at(key), "this is for sentinels: write `mode: sentinel`, or leave it out");
        }
        if redis.username.is_some() && redis.password.is_none() {
            file.error(&at("username"), "a user has a password: write `password: ${file:PATH}`");
        }
        file.takes_time(&at("timeout"), redis.timeout);
        if redis.timeout.0 > std::time::Duration::from_secs(5) {
            file.error(&at("timeout"), "requests wait for so long when the store hangs: at most 5s");
        }
    }
}

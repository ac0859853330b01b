//! What the process may hold at once: what the file says, or what the machine has.

use std::{path::Path, sync::Arc};

use rustix::{
    process::{Resource, getrlimit},
    system::sysinfo,
};

use crate::{
    config::{limits::Limits, types::Rate},
    proxy::penalty,
};

/// The limits of a snapshot.
#[derive(Clone, Debug)]
pub struct Capacity {
    /// Open connections of clients.
    pub connections: usize,
    /// Open connections of one client address.
    pub connections_per_address: Option<u32>,
    /// New connections of one client address.
    pub connection_rate: Option<Rate>,
    /// When an address is turned away for a while.
    pub penalty: Option<Arc<penalty::Rules>>,
    /// Bytes on their way.
    pub buffers: u64,
}

impl Capacity {
    /// What the file says, or what the machine has.
    pub fn new(limits: &Limits) -> Self {
        let connections = limits.connections.map_or_else(|| max_files() / 2, |connections| connections.get().into());
        Self {
            connections: usize::try_from(connections).unwrap_or(usize::MAX),
            connections_per_address: limits.connections_per_address.map(Into::into),
            connection_rate: limits.connection_rate,
            penalty: limits.penalty_box.as_ref().map(|rules| Arc::new(penalty::Rules::compile(rules))),
            buffers: limits.buffers.map_or_else(|| memory() / 4, |size| size.0),
        }
    }
}

/// How many files the process may open.
pub fn max_files() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// The memory of the machine, or what the control group allows if that is less.
fn memory() -> u64 {
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let group = groups.lines().find_map(|line| line.strip_prefix("0::")).map(of_group);
    let info = sysinfo();
    let machine = info.totalram.saturating_mul(info.mem_unit.into());
    group.flatten().map_or(machine, |group| group.min(machine))
}

/// The least that this control group and those above it allow.
fn of_group(group: &str) -> Option<u64> {
    let folder = Path::new("/sys/fs/cgroup").join(group.trim_start_matches('/'));
    let limits = folder.ancestors().take_while(|folder| folder.starts_with("/sys/fs/cgroup"));
    limits.filter_map(|folder| std::fs::read_to_string(folder.join("memory.max")).ok()?.trim().parse().ok()).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_file_says_counts() {
        let limits = Limits { connections: 7.try_into().ok(), ..Limits::default() };
        let capacity = Capacity::new(&limits);
        assert_eq!((capacity.connections, capacity.connections_per_address), (7, None));
        assert!(capacity.buffers > 1 << 20);
    }
}

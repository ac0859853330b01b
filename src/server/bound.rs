//! What a process is bound to until it ends.

use std::path::PathBuf;

use crate::{
    config::{
        Validated,
        http3::Http3,
        listener::{BindAddress, Mode},
        telemetry::Admin,
        types::SocketPath,
    },
    proxy::connection::Limits,
};

/// The parts of a file that a running process cannot change.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Bound {
    workers: Option<u16>,
    listeners: Vec<(BindAddress, Option<Mode>, bool, Http3, Limits)>,
    admin: Option<Admin>,
    pub(super) watch: bool,
    /// Folders of other files that are read, if they are to be watched.
    pub(super) folders: Vec<PathBuf>,
    control: Option<SocketPath>,
}

impl Bound {
    pub(super) fn new(config: &Validated) -> Self {
        let listeners = config.listeners.iter();
        Self {
            workers: config.workers,
            listeners: listeners
                .map(|one| (one.address.clone(), one.mode, one.tls.is_some(), one.http3, Limits::new(one)))
                .collect(),
            admin: config.admin.clone(),
            watch: config.reload.watch,
            folders: if config.reload.watch { config.consumer_folders() } else { Vec::new() },
            control: config.control.clone(),
        }
    }

    /// Whether a process with these can run that file.
    pub(super) fn fits(&self, config: &Validated) -> bool {
        *self == Self::new(config)
    }

    /// What has changed, in words.
    pub(super) fn difference(&self, config: &Validated) -> String {
        let other = Self::new(config);
        let parts = [
            ("listeners", self.listeners != other.listeners),
            ("workers", self.workers != other.workers),
            ("admin", self.admin != other.admin),
            ("reload.watch", self.watch != other.watch),
            ("consumers.files", self.folders != other.folders),
            ("control", self.control != other.control),
        ];
        let changed: Vec<&str> = parts.iter().filter(|(_, differs)| *differs).map(|(name, _)| *name).collect();
        format!("{} changed", changed.join(", "))
    }
}

//! What systemd is told ([sd_notify(3)](https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html)); nothing
//! without `$NOTIFY_SOCKET`. It listens to the main process only, so a process that takes over is heard once the one
//! before has said that it is the main process now.

use sd_notify::NotifyState;

/// This process serves.
pub(super) fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// A configuration is read. [`ready`] has to follow.
pub(super) fn reloading() {
    // `Type=notify-reload` wants to know since when.
    let since = NotifyState::monotonic_usec_now();
    tell(&[Some(NotifyState::Reloading), since.ok()].into_iter().flatten().collect::<Vec<_>>());
}

/// One line for `systemctl status`.
pub(super) fn status(status: &str) {
    tell(&[NotifyState::Status(status)]);
}

/// Another process is the main one from now on.
pub(super) fn main_process(pid: u32) {
    tell(&[NotifyState::MainPid(pid)]);
}

/// This process stops.
pub(super) fn stopping(status: &str) {
    tell(&[NotifyState::Stopping, NotifyState::Status(status)]);
}

/// Nothing is stuck.
pub(super) fn alive() {
    // systemd names the process that it started in `$WATCHDOG_PID`; one that took over has another number.
    if std::env::var_os("WATCHDOG_USEC").is_some() {
        tell(&[NotifyState::Watchdog]);
    }
}

fn tell(what: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(what) {
        log::warn!("systemd could not be told: {error}");
    }
}

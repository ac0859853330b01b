//! Notices when the configuration file changes.

use std::path::Path;

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;

/// Sends when the file changes, for as long as what is returned is kept. The folder is watched, because editors and
/// `kubectl` replace files.
pub(super) fn watch(path: &Path, changed: mpsc::UnboundedSender<()>) -> Option<RecommendedWatcher> {
    try_watch(path, changed).inspect_err(|error| log::error!("the configuration file cannot be watched: {error}")).ok()
}

fn try_watch(path: &Path, changed: mpsc::UnboundedSender<()>) -> notify::Result<RecommendedWatcher> {
    let name = path.file_name().map(ToOwned::to_owned);
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let Ok(event) = event else { return };
        let reads = matches!(event.kind, notify::EventKind::Access(_));
        // `..data` is what Kubernetes swaps to change all files of a folder at once.
        let ours = event
            .paths
            .iter()
            .any(|path| path.file_name() == name.as_deref() || path.file_name().is_some_and(|file| file == "..data"));
        if ours && !reads && changed.send(()).is_err() {
            log::debug!("{name:?} changed while the process stops");
        }
    })?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    watcher.watch(folder.unwrap_or_else(|| Path::new(".")), RecursiveMode::NonRecursive)?;
    Ok(watcher)
}

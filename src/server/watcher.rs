//! Notices when the configuration file changes, or one that it names.

use std::path::{Path, PathBuf};

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;

/// Sends when the file changes, or any in `folders`, for as long as what is returned is kept. The folder of the file is watched,
/// because editors and `kubectl` replace files.
pub(super) fn watch(
    path: &Path,
    folders: &[PathBuf],
    changed: mpsc::UnboundedSender<()>,
) -> Option<RecommendedWatcher> {
    try_watch(path, folders, changed)
        .inspect_err(|error| log::error!("the configuration file cannot be watched: {error}"))
        .ok()
}

fn try_watch(
    path: &Path,
    folders: &[PathBuf],
    changed: mpsc::UnboundedSender<()>,
) -> notify::Result<RecommendedWatcher> {
    // What changes is told by its whole path.
    let others: Vec<PathBuf> = folders.iter().filter_map(|folder| std::path::absolute(folder).ok()).collect();
    let name = path.file_name().map(ToOwned::to_owned);
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let Ok(event) = event else { return };
        let reads = matches!(event.kind, notify::EventKind::Access(_));
        // `..data` is what Kubernetes swaps to change all files of a folder at once.
        let ours = event.paths.iter().any(|path| {
            let file = path.file_name();
            file == name.as_deref()
                || file.is_some_and(|file| file == "..data")
                || others.iter().any(|folder| path.parent() == Some(folder))
        });
        if ours && !reads && changed.send(()).is_err() {
            log::debug!("{name:?} changed while the process stops");
        }
    })?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    watcher.watch(folder.unwrap_or_else(|| Path::new(".")), RecursiveMode::NonRecursive)?;
    for folder in folders {
        watcher.watch(folder, RecursiveMode::NonRecursive)?;
    }
    Ok(watcher)
}

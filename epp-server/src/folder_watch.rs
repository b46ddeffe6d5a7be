//! Tells when something in a folder changed.

use std::path::Path;
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;

/// Editors and volume mounts change a file in several steps; it is read when they have settled.
const SETTLE: Duration = Duration::from_millis(100);

/// A watched folder, until it is dropped.
///
/// A folder and not a file, because a volume mount replaces a link beside the file, not the file itself.
pub(crate) struct FolderWatch {
    _watcher: RecommendedWatcher,
    changes: mpsc::Receiver<()>,
}

impl FolderWatch {
    /// Starts to watch.
    ///
    /// # Errors
    ///
    /// The folder cannot be watched.
    pub(crate) fn new(folder: &Path) -> Result<Self, String> {
        let unwatchable =
            |error: notify::Error| format!("cannot watch folder, {error}: `{}`", folder.display());
        let (changed, changes) = mpsc::channel::<()>(1);
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.map_or(true, |event| !event.kind.is_access()) {
                // A full channel already holds a change that is not yet seen.
                let _unseen = changed.try_send(());
            }
        })
        .map_err(unwatchable)?;
        watcher.watch(folder, RecursiveMode::NonRecursive).map_err(unwatchable)?;
        Ok(Self { _watcher: watcher, changes })
    }

    /// Waits until something changed and settled; false when there is nothing more to come.
    pub(crate) async fn changed(&mut self) -> bool {
        if self.changes.recv().await.is_none() {
            return false;
        }
        tokio::time::sleep(SETTLE).await;
        while self.changes.try_recv().is_ok() {}
        true
    }
}

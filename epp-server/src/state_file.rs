//! What the scheduler has learned, kept in a file over restarts: the prefix index and the prefill rates.
//!
//! The file is replaced as a whole, so that a process which is killed leaves the last one behind. A file that cannot be used
//! is left out with a warning: the server then starts as it does without one, and learns anew.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use p3sched::Scheduler;
use parking_lot::Mutex;
use tokio::time::{MissedTickBehavior, interval};

/// Where the state is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateSettings {
    /// The file.
    pub path: PathBuf,
    /// Time between two writings.
    pub interval: Duration,
    /// Age at which the engines' caches have other contents.
    pub max_age: Duration,
}

/// A file with the state of a scheduler.
pub struct StateFile {
    settings: StateSettings,
    scheduler: Arc<Scheduler>,
    /// Held while the file is written: the last writing may begin during one of the period.
    writing: Mutex<()>,
}

impl StateFile {
    /// Makes sure that the file can be written, and restores what is in it.
    ///
    /// # Errors
    ///
    /// The file cannot be written; the message says what would be right.
    pub fn open(settings: StateSettings, scheduler: Arc<Scheduler>) -> Result<Self, String> {
        let path = &settings.path;
        if path.is_dir() {
            return Err(format!("state file must be a file, not a folder: `{}`", path.display()));
        }
        create(&beside(path)).and_then(|_probe| fs::remove_file(beside(path))).map_err(|error| {
            format!(
                "cannot write state file, {error}; hint: name a file on a volume that is writable, or leave out `--state-file`: `{}`",
                path.display()
            )
        })?;
        let file = Self { settings, scheduler, writing: Mutex::new(()) };
        file.restore();
        Ok(file)
    }

    /// Writes on a period until the task is dropped.
    pub async fn keep(self: Arc<Self>) {
        let mut ticks = interval(self.settings.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.tick().await;
        loop {
            ticks.tick().await;
            self.save().await;
        }
    }

    /// Writes now; that it failed is said in the log.
    pub async fn save(self: &Arc<Self>) {
        let this = Arc::clone(self);
        // Serving goes on meanwhile, on other threads.
        let written = tokio::task::spawn_blocking(move || this.write()).await;
        let path = self.settings.path.display();
        match written.unwrap_or_else(|panic| Err(io::Error::other(panic))) {
            Ok(bytes) => tracing::debug!(%path, bytes, "state written"),
            Err(error) => tracing::warn!(%path, %error, "state file cannot be written"),
        }
    }

    fn write(&self) -> io::Result<usize> {
        let _writing = self.writing.lock();
        let path = &self.settings.path;
        let bytes = self.scheduler.snapshot();
        let temporary = beside(path);
        let mut file = create(&temporary)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(folder(path))?.sync_all()?;
        Ok(bytes.len())
    }

    fn restore(&self) {
        let path = &self.settings.path;
        let shown = path.display();
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return tracing::info!(path = %shown, "no state yet, starting without");
            }
            Err(error) => {
                return tracing::warn!(path = %shown, %error, "state file cannot be read, starting without");
            }
        };
        let age = age(path).unwrap_or_default();
        if age > self.settings.max_age {
            let age = humantime::format_duration(Duration::from_secs(age.as_secs()));
            return tracing::warn!(path = %shown, %age, "state is older than `--state-max-age`, starting without");
        }
        match self.scheduler.restore(&bytes) {
            Ok(()) => tracing::info!(
                path = %shown,
                bytes = bytes.len(),
                age_seconds = age.as_secs(),
                blocks = self.scheduler.stats(crate::clock::now()).index.unique_blocks,
                "state restored"
            ),
            Err(error) => tracing::warn!(path = %shown, %error, "state cannot be used, starting without"),
        }
    }
}

/// A new file that only its owner can read.
fn create(path: &Path) -> io::Result<File> {
    // What a killed process left here, or a link that somebody else has put here.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => OpenOptions::new().write(true).create_new(true).mode(0o600).open(path),
    }
}

/// Where the next state is written, on the same volume.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".next");
    PathBuf::from(name)
}

fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// None for a file from the future: clocks go back, too.
fn age(path: &Path) -> Option<Duration> {
    SystemTime::now().duration_since(fs::metadata(path).ok()?.modified().ok()?).ok()
}

//! A file with the endpoints, read again when it changes.
//!
//! ```yaml
//! endpoints:
//! - 10.0.0.7:8000
//! - {name: 10.0.0.8:8000, labels: {zone: b}}
//! ```
//!
//! A file that cannot be read keeps the last endpoints in force.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use p3sched::Endpoint;
use serde::Deserialize;

use super::{EndpointEntry, Pool};
use crate::folder_watch::FolderWatch;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EndpointsFile {
    endpoints: Vec<EndpointEntry>,
}

/// Reads the endpoints of a file.
///
/// # Errors
///
/// The message names the file and, where the content is wrong, line and column.
pub fn read(path: &Path) -> Result<Vec<Endpoint>, String> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("cannot read endpoints file, {error}: `{}`", path.display()))?;
    let file: EndpointsFile = serde_norway::from_str(&text)
        .map_err(|error| format!("invalid endpoints file, {error}: `{}`", path.display()))?;
    Ok(file.endpoints.into_iter().map(|entry| entry.0).collect())
}

/// Keeps the pool at what the file says until the task is dropped.
///
/// # Errors
///
/// The folder of the file cannot be watched.
pub fn watch(path: PathBuf, pool: Arc<Pool>) -> Result<impl Future<Output = ()>, String> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    };
    let mut folder = FolderWatch::new(&folder)?;
    Ok(async move {
        // What changed between the first reading and the watch was seen by neither.
        reload(&path, &pool);
        while folder.changed().await {
            reload(&path, &pool);
        }
    })
}

fn reload(path: &Path, pool: &Pool) {
    let endpoints = match read(path) {
        Ok(endpoints) => endpoints,
        Err(error) => {
            return tracing::warn!(%error, "endpoints file ignored, the last endpoints stay in force");
        }
    };
    if *endpoints == *pool.endpoints() {
        return;
    }
    if let Err(error) = pool.set(endpoints) {
        tracing::warn!(%error, "endpoints refused, the last ones stay in force");
    }
}

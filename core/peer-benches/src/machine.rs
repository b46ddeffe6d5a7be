//! Where the figures were measured.

use std::fs;
use std::thread;

use anyhow::{Context, Result};

/// The machine in words: processor, cores, memory, kernel, and how busy others keep it.
pub fn describe() -> String {
    let field = |path: &str, name: &str| {
        let text = fs::read_to_string(path).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned())
    };
    let memory = field("/proc/meminfo", "MemTotal").unwrap_or_default();
    let gigabytes = memory.trim_end_matches(" kB").parse::<f64>().unwrap_or(0.0) / 1048576.0;
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    format!(
        "{}, {} cores, {gigabytes:.0} GiB, Linux {}, load {}",
        field("/proc/cpuinfo", "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
        cores(),
        fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim(),
        load.split(' ').next().unwrap_or_default(),
    )
}

pub fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// Bytes of this process that are in memory.
///
/// # Errors
///
/// If the system does not say.
pub fn resident_bytes() -> Result<f64> {
    kilobytes("/proc/self/status", "VmRSS:")
}

/// Bytes that can be had without swapping.
///
/// # Errors
///
/// If the system does not say.
pub fn available_bytes() -> Result<f64> {
    kilobytes("/proc/meminfo", "MemAvailable:")
}

fn kilobytes(path: &str, name: &str) -> Result<f64> {
    let text = fs::read_to_string(path)?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)).context("not a Linux system")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? * 1024.0)
}

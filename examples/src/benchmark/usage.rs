//! What the operating system says that a process used.

use crate::process::ManagedProcess;
use anyhow::{Context, Result};

/// Microseconds in which Linux counts processor time for `/proc`, on every machine.
const TICK: f64 = 10_000.0;

/// Processor time that a process has used, in microseconds.
///
/// # Errors
///
/// If the process has ended.
pub fn processor_time(process: &ManagedProcess) -> Result<f64> {
    let stat = read(process, "stat")?;
    // The name in brackets may hold spaces; user and system time are fields 14 and 15, the state behind the name is 3.
    let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields).split(' ').skip(11).take(2);
    let ticks = fields.map(str::parse::<f64>).sum::<Result<f64, _>>()?;
    Ok(ticks * TICK)
}

/// The most memory that a process has had at once (resident set), in MiB.
///
/// # Errors
///
/// If the process has ended.
pub fn peak_memory(process: &ManagedProcess) -> Result<f64> {
    memory(process, "VmHWM:")
}

/// Memory that a process has now (resident set), in MiB.
///
/// # Errors
///
/// If the process has ended.
pub fn resident_memory(process: &ManagedProcess) -> Result<f64> {
    memory(process, "VmRSS:")
}

fn memory(process: &ManagedProcess, field: &str) -> Result<f64> {
    let status = read(process, "status")?;
    let value = status.lines().find_map(|line| line.strip_prefix(field)).context("memory is not told")?;
    let kibibytes: f64 = value.trim_end_matches("kB").trim().parse()?;
    Ok(kibibytes / 1024.0)
}

fn read(process: &ManagedProcess, file: &str) -> Result<String> {
    let path = format!("/proc/{}/{file}", process.id());
    std::fs::read_to_string(&path).with_context(|| format!("cannot read `{path}`"))
}

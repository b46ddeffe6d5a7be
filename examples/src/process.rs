//! Child processes with a log file, a readiness check and a certain end.

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

/// Where free ports are looked for.
const PORTS: Range<u16> = 20_000..32_000;

/// Time between two looks at a starting process.
const POLL: Duration = Duration::from_millis(25);

/// A child process in a process group of its own; dropping it kills the whole group.
#[derive(Debug)]
pub struct ManagedProcess {
    name: String,
    log: PathBuf,
    child: Child,
    group: Pid,
}

impl ManagedProcess {
    /// Starts `command`, with its output going to `log`.
    ///
    /// # Errors
    ///
    /// If the log cannot be written or the program cannot be started.
    pub fn spawn(name: &str, mut command: Command, log: &Path) -> Result<Self> {
        if let Some(folder) = log.parent() {
            std::fs::create_dir_all(folder).with_context(|| format!("cannot make `{}`", folder.display()))?;
        }
        let output = File::create(log).with_context(|| format!("cannot write `{}`", log.display()))?;
        let errors = output.try_clone()?;
        let child = command
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {name}: `{:?}`", command.as_std().get_program()))?;
        let id = child.id().context("the process ended at once")?;
        Ok(Self { name: name.to_owned(), log: log.to_owned(), child, group: Pid::from_raw(id.try_into()?) })
    }

    /// Waits until `url` answers with a status of success.
    ///
    /// # Errors
    ///
    /// If the process ends or `limit` passes first; the message holds the end of the log.
    pub async fn wait_for_http(&mut self, url: &str, limit: Duration) -> Result<()> {
        let client = reqwest::Client::builder().timeout(Duration::from_secs(2)).build()?;
        let deadline = Instant::now() + limit;
        loop {
            let answer = client.get(url).send().await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(());
            }
            self.keep_waiting(deadline, url).await?;
        }
    }

    /// Waits until something listens on `addr`.
    ///
    /// # Errors
    ///
    /// If the process ends or `limit` passes first; the message holds the end of the log.
    pub async fn wait_for_tcp(&mut self, addr: SocketAddr, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        while tokio::net::TcpStream::connect(addr).await.is_err() {
            self.keep_waiting(deadline, &addr.to_string()).await?;
        }
        Ok(())
    }

    /// Kills the process and everything it started, at once (SIGKILL).
    pub fn kill(&mut self) {
        // The group may have ended by itself.
        let _ = killpg(self.group, Signal::SIGKILL);
    }

    /// Asks the process to end in order (SIGTERM) and kills it if it has not ended after `limit`.
    pub async fn terminate(&mut self, limit: Duration) {
        let _ = killpg(self.group, Signal::SIGTERM);
        let _ = tokio::time::timeout(limit, self.child.wait()).await;
        self.kill();
        let _ = self.child.wait().await;
    }

    /// Whether the process is still there.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// The process id, for what the system knows of it.
    #[must_use]
    pub fn id(&self) -> i32 {
        // It leads a group of its own.
        self.group.as_raw()
    }

    /// Where the output goes.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    async fn keep_waiting(&mut self, deadline: Instant, target: &str) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{} ended while starting, {status}: {}", self.name, self.log_tail());
        }
        if Instant::now() >= deadline {
            bail!("{} did not answer in time at `{target}`: {}", self.name, self.log_tail());
        }
        sleep(POLL).await;
        Ok(())
    }

    fn log_tail(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        let tail = lines.get(lines.len().saturating_sub(12)..).unwrap_or_default().join("\n");
        format!("`{}`\n{tail}", self.log.display())
    }
}

impl Drop for ManagedProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Finds `count` different free ports on the loopback interface.
///
/// They lie below the range that the system gives to outgoing connections, and no two calls in a process return the
/// same, so that a process started a moment later can still have them.
///
/// # Errors
///
/// If too few ports are free.
pub fn free_ports(count: usize) -> Result<Vec<u16>> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let offset = std::process::id().wrapping_mul(61);
    let free: Vec<_> = (0..PORTS.len())
        .map(|_| offset.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % PORTS.len() as u32)
        .filter_map(|index| PORTS.clone().nth(index as usize))
        .filter(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .take(count)
        .collect();
    anyhow::ensure!(free.len() == count, "too few free ports between {} and {}", PORTS.start, PORTS.end);
    Ok(free)
}

/// The root of the repository, where the virtual environments lie.
#[must_use]
pub fn repository_root() -> PathBuf {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR"));
    examples.parent().unwrap_or(examples).to_owned()
}

/// A binary of this workspace: beside the running executable, where cargo puts it.
///
/// # Errors
///
/// If it has not been built.
pub fn workspace_binary(name: &str, package: &str) -> Result<PathBuf> {
    let executable = std::env::current_exe()?;
    // A test's executable lies one folder deeper, in `deps`.
    let found =
        executable.ancestors().skip(1).take(2).map(|folder| folder.join(name)).find(|path| path.is_file());
    let profile =
        if executable.components().any(|part| part.as_os_str() == "release") { " --release" } else { "" };
    found.with_context(|| {
        format!(
            "`{name}` is not beside `{}`: build it with `cargo build{profile} -p {package}`",
            executable.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[tokio::test]
    async fn a_process_that_ends_is_reported_with_its_last_words() {
        let log = std::env::temp_dir().join(format!("p3sched-process-{}.log", std::process::id()));
        let mut process = ManagedProcess::spawn("shell", shell("echo no licence; exit 3"), &log).unwrap();
        let unused = SocketAddr::from((Ipv4Addr::LOCALHOST, free_ports(1).unwrap()[0]));
        let error = process.wait_for_tcp(unused, Duration::from_secs(10)).await.unwrap_err().to_string();
        assert!(
            error.contains("shell ended while starting, exit status: 3") && error.contains("no licence"),
            "{error}"
        );
        std::fs::remove_file(log).unwrap();
    }

    #[tokio::test]
    async fn killing_reaches_the_children_of_the_child() {
        let log = std::env::temp_dir().join(format!("p3sched-group-{}.log", std::process::id()));
        let mut process = ManagedProcess::spawn("shell", shell("sleep 600 & echo $!; wait"), &log).unwrap();
        let grandchild = loop {
            if let Ok(id) = std::fs::read_to_string(&log).unwrap().trim().parse() {
                break Pid::from_raw(id);
            }
            sleep(POLL).await;
        };
        assert!(process.is_running());
        process.terminate(Duration::from_secs(5)).await;
        let gone = || {
            let status = std::fs::read_to_string(format!("/proc/{grandchild}/stat")).unwrap_or_default();
            status.is_empty() || status.contains(") Z ")
        };
        for _ in 0..200 {
            if gone() {
                break;
            }
            sleep(POLL).await;
        }
        assert!(gone());
        std::fs::remove_file(log).unwrap();
    }
}

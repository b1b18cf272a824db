//! Which process made a temporary file or holds a directory, and whether it still runs: what a
//! killed process leaves is removed by the next one, what a living one needs never is.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt;
use std::sync::OnceLock;

/// A process on this machine or on another one that shares the disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// Name of its machine.
    pub host: String,
    /// Hash of the machine's name and of the space in which process numbers are unique there.
    machine: String,
    /// Its number.
    pub pid: u32,
    /// When it started, in a unit of the system: numbers are used again.
    started: String,
}

impl ProcessId {
    /// This process.
    pub fn current() -> &'static Self {
        static CURRENT: OnceLock<ProcessId> = OnceLock::new();
        CURRENT.get_or_init(|| {
            let (host, pid) = (host(), std::process::id());
            // two containers may have the same name
            let space = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
            let space = space.to_string_lossy().into_owned();
            Self {
                machine: short_hash(format!("{host} {space}").as_bytes()),
                host,
                pid,
                started: started(pid).unwrap_or_default(),
            }
        })
    }

    /// Whether this was a process of this machine that has ended. False where that is unknown.
    pub fn has_ended(&self) -> bool {
        self.machine == Self::current().machine
            && started(self.pid).is_none_or(|now| now != self.started)
    }

    /// As a part of a file name, which [`ProcessId::of_tag`] reads.
    pub(crate) fn tag(&self) -> String {
        format!("{}-{}-{}", self.machine, self.pid, self.started)
    }

    /// The process of a tag, without the name of its machine.
    pub(crate) fn of_tag(tag: &str) -> Option<Self> {
        let mut parts = tag.split('-');
        let [machine, pid, started] = [parts.next()?, parts.next()?, parts.next()?];
        Some(Self {
            host: String::new(),
            machine: machine.to_owned(),
            pid: pid.parse().ok()?,
            started: started.to_owned(),
        })
    }
}

impl fmt::Display for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} on {}", self.pid, self.host)
    }
}

fn host() -> String {
    let named = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let asked = || {
        let asked = std::process::Command::new("hostname").output().ok()?;
        String::from_utf8(asked.stdout).ok()
    };
    let name = named.or_else(asked).unwrap_or_default();
    match name.trim() {
        "" => "this machine".to_owned(),
        name => name.to_owned(),
    }
}

fn short_hash(text: &[u8]) -> String {
    let mut hash = format!("{:x}", Sha256::digest(text));
    hash.truncate(8);
    hash
}

/// When the process `pid` started; none if there is none.
#[cfg(target_os = "linux")]
fn started(pid: u32) -> Option<String> {
    let stat = match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat,
        // without /proc nothing is known, so everything runs
        Err(_) => return (!std::path::Path::new("/proc/self/stat").exists()).then(String::new),
    };
    // after the name, which may hold anything: the state, and 19 fields on the start
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    (!matches!(state, "Z" | "X")).then_some(fields.nth(18)?.to_owned())
}

#[cfg(all(unix, not(target_os = "linux")))]
fn started(pid: u32) -> Option<String> {
    let mut ps = std::process::Command::new("ps");
    let Ok(listed) = ps.args(["-o", "lstart=", "-p", &pid.to_string()]).output() else {
        return Some(String::new());
    };
    let time = listed.stdout.trim_ascii();
    (!time.is_empty()).then(|| short_hash(time))
}

/// Nothing is known, so everything runs.
#[cfg(not(unix))]
fn started(_: u32) -> Option<String> {
    Some(String::new())
}

#[cfg(test)]
mod tests;

//! On what machine, of which commit, and when: without these a figure means nothing.

use std::fs;
use std::process::{Command, Stdio};

use chrono::{SecondsFormat, Utc};
use serde::{Deserialize, Serialize};

/// The circumstances of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Model of the processor.
    pub processor: String,
    /// Processors that this process may use.
    pub processors: usize,
    /// Memory in bytes.
    pub memory: u64,
    /// Version of the kernel.
    pub kernel: String,
    /// Load average of the last minute before the run.
    pub load: String,
    /// Commit of the work tree, with `-dirty` where it has changes; `unknown` outside of one.
    pub commit: String,
    /// When the run began, in UTC.
    pub date: String,
}

impl Machine {
    /// Looks at this machine.
    #[must_use]
    pub fn look() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let named = |text: &str, name: &str| {
            let line = text
                .lines()
                .find(|line| line.starts_with(name))
                .unwrap_or("");
            line.split_once(':')
                .map_or("", |(_, value)| value)
                .trim()
                .to_owned()
        };
        let memory = named(&read("/proc/meminfo"), "MemTotal");
        let kilobytes: u64 = memory
            .split(' ')
            .next()
            .and_then(|number| number.parse().ok())
            .unwrap_or(0);
        Self {
            processor: named(&read("/proc/cpuinfo"), "model name"),
            processors: super::processor::processors().len(),
            memory: kilobytes * 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load: read("/proc/loadavg")
                .split(' ')
                .next()
                .unwrap_or("")
                .to_owned(),
            commit: commit(),
            date: Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true),
        }
    }
}

fn commit() -> String {
    let output = Command::new("git")
        .args([
            "describe",
            "--always",
            "--dirty",
            "--abbrev=12",
            "--exclude=*",
        ])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    output
        .ok()
        .filter(|output| output.status.success())
        .map_or_else(
            || "unknown".to_owned(),
            |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        )
}

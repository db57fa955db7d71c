//! What a process costs, read from `/proc`: CPU time, memory, context switches.
//!
//! CPU time is the sum of the scheduler's nanosecond counters of all threads (`schedstat`) where that is
//! at least what the tick counters say; threads that have ended are only in the ticks. Child processes count
//! with their parent.

use std::fs;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// Processes of one tree that are read; more than a broker has.
const TREE_MAX: usize = 256;

/// The state of a process and its descendants at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// CPU time used so far, in nanoseconds.
    pub cpu_ns: u64,
    /// The part in user mode, in nanoseconds, to 10 ms.
    pub user_ns: u64,
    /// The part in the kernel, in nanoseconds, to 10 ms.
    pub system_ns: u64,
    /// Resident memory in bytes.
    pub rss: u64,
    /// Resident memory with shared pages divided by those who share them, in bytes.
    pub pss: u64,
    /// Resident memory that is no file's, in bytes.
    pub anonymous: u64,
    /// Voluntary context switches.
    pub switches_voluntary: u64,
    /// Involuntary context switches.
    pub switches_involuntary: u64,
    /// Threads.
    pub threads: u64,
}

impl Usage {
    /// Reads a process and its descendants.
    ///
    /// # Errors
    /// [`Error::Proc`] when the process is gone or may not be read.
    pub fn read(pid: u32) -> Result<Self, Error> {
        let mut total = Self::default();
        let mut left = vec![pid];
        let mut seen = 0;
        while let Some(next) = left.pop() {
            seen += 1;
            if seen > TREE_MAX {
                break;
            }
            match total.add(next) {
                Err(error) if next == pid => return Err(error),
                // A child that ended in between is no longer there to be counted.
                Ok(()) | Err(_) => {}
            }
            left.extend(children(next));
        }
        Ok(total)
    }

    /// Reads this process, without those that it started.
    ///
    /// # Errors
    /// [`Error::Proc`] when `/proc` is not there.
    pub fn of_self() -> Result<Self, Error> {
        let mut own = Self::default();
        own.add(std::process::id())?;
        Ok(own)
    }

    /// What was used since an earlier moment; memory and threads are those of now.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            cpu_ns: self.cpu_ns.saturating_sub(earlier.cpu_ns),
            user_ns: self.user_ns.saturating_sub(earlier.user_ns),
            system_ns: self.system_ns.saturating_sub(earlier.system_ns),
            switches_voluntary: self
                .switches_voluntary
                .saturating_sub(earlier.switches_voluntary),
            switches_involuntary: self
                .switches_involuntary
                .saturating_sub(earlier.switches_involuntary),
            ..self
        }
    }

    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            cpu_ns: self.cpu_ns + other.cpu_ns,
            user_ns: self.user_ns + other.user_ns,
            system_ns: self.system_ns + other.system_ns,
            rss: self.rss + other.rss,
            pss: self.pss + other.pss,
            anonymous: self.anonymous + other.anonymous,
            switches_voluntary: self.switches_voluntary + other.switches_voluntary,
            switches_involuntary: self.switches_involuntary + other.switches_involuntary,
            threads: self.threads + other.threads,
        }
    }

    fn add(&mut self, pid: u32) -> Result<(), Error> {
        let stat = read(pid, "stat")?;
        let tick_ns = 1_000_000_000 / rustix::param::clock_ticks_per_second().max(1);
        // The command's name may hold blanks and brackets: fields are counted from the last bracket.
        let fields: Vec<&str> = stat
            .rsplit(')')
            .next()
            .unwrap_or("")
            .split_whitespace()
            .collect();
        let field = |number: usize| {
            fields
                .get(number)
                .and_then(|text| text.parse::<u64>().ok())
                .unwrap_or(0)
        };
        let (user_ns, system_ns) = (field(11) * tick_ns, field(12) * tick_ns);
        let mut exact_ns = 0;
        for task in tasks(pid) {
            self.threads += 1;
            let line = |name: &str| fs::read_to_string(task.join(name)).unwrap_or_default();
            exact_ns += line("schedstat")
                .split(' ')
                .next()
                .and_then(|text| text.parse().ok())
                .unwrap_or(0_u64);
            let status = line("status");
            self.switches_voluntary += named(&status, "voluntary_ctxt_switches:");
            self.switches_involuntary += named(&status, "nonvoluntary_ctxt_switches:");
        }
        self.user_ns += user_ns;
        self.system_ns += system_ns;
        self.cpu_ns += if exact_ns + 2 * tick_ns >= user_ns + system_ns {
            exact_ns
        } else {
            user_ns + system_ns
        };
        let status = read(pid, "status")?;
        self.rss += named(&status, "VmRSS:") * 1024;
        // smaps_rollup may be forbidden for foreign processes; the rest is still of use.
        let rollup = read(pid, "smaps_rollup").unwrap_or_default();
        self.pss += named(&rollup, "Pss:") * 1024;
        self.anonymous += named(&rollup, "Anonymous:") * 1024;
        Ok(())
    }
}

/// What all processors of the machine have done so far, in nanoseconds, to 10 ms each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MachineTime {
    /// Time in which they worked, or were taken away by the machine's host.
    pub busy_ns: u64,
    /// All time.
    pub all_ns: u64,
}

impl MachineTime {
    /// Reads it; zero where `/proc/stat` is not there.
    #[must_use]
    pub fn read() -> Self {
        let text = fs::read_to_string("/proc/stat").unwrap_or_default();
        let line = text.lines().next().unwrap_or_default();
        // user nice system idle iowait irq softirq steal; guests are in user.
        let ticks: Vec<u64> = line
            .split_whitespace()
            .skip(1)
            .take(8)
            .map(|number| number.parse().unwrap_or(0))
            .collect();
        let tick_ns = 1_000_000_000 / rustix::param::clock_ticks_per_second().max(1);
        let all: u64 = ticks.iter().sum();
        let idle: u64 = ticks.iter().skip(3).take(2).sum();
        Self {
            busy_ns: (all - idle) * tick_ns,
            all_ns: all * tick_ns,
        }
    }

    /// The part of all processors' time since `earlier` in which they did something else than `known_ns`,
    /// from 0 to 1.
    #[must_use]
    pub fn others_since(self, earlier: Self, known_ns: u64) -> f64 {
        let busy = self.busy_ns.saturating_sub(earlier.busy_ns);
        let all = self.all_ns.saturating_sub(earlier.all_ns);
        busy.saturating_sub(known_ns) as f64 / all.max(1) as f64
    }
}

fn read(pid: u32, file: &str) -> Result<String, Error> {
    fs::read_to_string(format!("/proc/{pid}/{file}")).map_err(|source| Error::Proc {
        pid,
        problem: source.to_string(),
    })
}

fn tasks(pid: u32) -> Vec<PathBuf> {
    fs::read_dir(format!("/proc/{pid}/task"))
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default()
}

fn children(pid: u32) -> Vec<u32> {
    tasks(pid)
        .iter()
        .filter_map(|task| fs::read_to_string(task.join("children")).ok())
        .flat_map(|line| {
            line.split_whitespace()
                .filter_map(|pid| pid.parse().ok())
                .collect::<Vec<u32>>()
        })
        .collect()
}

/// The first number of the line that begins with `name`.
fn named(text: &str, name: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_cpu_and_memory() {
        let before = Usage::read(std::process::id()).unwrap();
        let mut sum = 0_u64;
        let mut after = before;
        while after.since(before).cpu_ns < 20_000_000 {
            sum = (0..100_000).fold(sum, |sum, number| std::hint::black_box(sum ^ number));
            after = Usage::read(std::process::id()).unwrap();
        }
        std::hint::black_box(sum);
        assert!(after.rss > 100_000 && after.pss > 100_000 && after.threads >= 1);
    }

    #[test]
    fn what_the_machine_did_besides_is_what_is_not_known() {
        let earlier = MachineTime::read();
        assert!(earlier.all_ns > earlier.busy_ns && earlier.busy_ns > 0);
        let later = MachineTime {
            busy_ns: earlier.busy_ns + 600,
            all_ns: earlier.all_ns + 1000,
        };
        assert_eq!(later.others_since(earlier, 500), 0.1);
        assert_eq!(later.others_since(earlier, 700), 0.0);
    }

    #[test]
    fn a_process_that_is_not_there_is_an_error() {
        assert!(matches!(Usage::read(u32::MAX), Err(Error::Proc { .. })));
    }
}

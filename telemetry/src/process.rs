//! Figures of the process, read from `/proc` when they are asked for.
//!
//! Their names are those of Prometheus' client libraries (`process_…`), so that dashboards made for others show them, too. Where there is no `/proc`
//! they are left out.

use std::fmt;
use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;
use rustix::process::{Resource, getrlimit};

/// Reads the figures; to be registered with a registry that has no prefix.
#[derive(Debug)]
pub struct Process {
    /// Unix time at which the machine was started; `None` if that is not known.
    booted: Option<f64>,
}

impl Default for Process {
    fn default() -> Self {
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        let booted = stat.lines().find_map(|line| line.strip_prefix("btime "));
        Self {
            booted: booted.and_then(|seconds| seconds.trim().parse().ok()),
        }
    }
}

/// What `/proc/self/stat` says.
struct Stat {
    cpu_seconds: f64,
    started: f64,
    virtual_bytes: u64,
    resident_bytes: u64,
}

impl Stat {
    fn read() -> Option<Self> {
        Self::parse(&fs::read_to_string("/proc/self/stat").ok()?)
    }

    /// Fields are counted behind the name of the program, which may hold anything.
    fn parse(text: &str) -> Option<Self> {
        let fields: Vec<&str> = text.rsplit_once(") ")?.1.split_ascii_whitespace().collect();
        let number = |field: usize| fields.get(field)?.parse::<u64>().ok();
        let ticks = |field: usize| {
            #[expect(clippy::cast_precision_loss, reason = "years of ticks are exact")]
            let seconds = number(field)? as f64 / rustix::param::clock_ticks_per_second() as f64;
            Some(seconds)
        };
        Some(Self {
            cpu_seconds: ticks(11)? + ticks(12)?,
            started: ticks(19)?,
            virtual_bytes: number(20)?,
            resident_bytes: number(21)? * rustix::param::page_size() as u64,
        })
    }
}

/// Open files. Since Linux 6.2 the size of the folder is their number, which costs nothing; before, the figure is left out rather than
/// a hundred thousand names read at each scrape.
fn open_files() -> Option<u64> {
    let size = fs::metadata("/proc/self/fd").ok()?.len();
    (size > 0).then_some(size)
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut gauge = |name: &str, help: &str, unit: Option<&Unit>, value: f64| {
            let gauge = ConstGauge::new(value);
            let metric = encoder.encode_descriptor(name, help, unit, gauge.metric_type())?;
            gauge.encode(metric)
        };
        #[expect(clippy::cast_precision_loss, reason = "bytes and files below 2^53")]
        let whole = |value: u64| value as f64;
        let stat = Stat::read();
        if let Some(stat) = &stat {
            let (resident, size) = (whole(stat.resident_bytes), whole(stat.virtual_bytes));
            gauge(
                "process_resident_memory",
                "Memory of the process that is in use",
                Some(&Unit::Bytes),
                resident,
            )?;
            gauge(
                "process_virtual_memory",
                "Address space of the process",
                Some(&Unit::Bytes),
                size,
            )?;
        }
        if let (Some(stat), Some(booted)) = (&stat, self.booted) {
            let started = booted + stat.started;
            gauge(
                "process_start_time",
                "When the process was started, Unix time",
                Some(&Unit::Seconds),
                started,
            )?;
        }
        if let Some(files) = open_files() {
            gauge(
                "process_open_fds",
                "Files and sockets open now",
                None,
                whole(files),
            )?;
        }
        if let Some(files) = getrlimit(Resource::Nofile).current {
            gauge(
                "process_max_fds",
                "Files and sockets that may be open",
                None,
                whole(files),
            )?;
        }
        if let Some(stat) = stat {
            let cpu = ConstCounter::new(stat.cpu_seconds);
            let help = "CPU time of the process, user and system";
            let kind = cpu.metric_type();
            let metric = encoder.encode_descriptor("process_cpu", help, Some(&Unit::Seconds), kind);
            cpu.encode(metric?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;

    use super::*;

    #[test]
    fn a_name_with_brackets_and_spaces_is_skipped() {
        let rest: Vec<String> = (0..40).map(|field| (field * 100).to_string()).collect();
        let stat = Stat::parse(&format!("7 (a) b (c) S {}", rest[1..].join(" "))).unwrap();
        let hz = rustix::param::clock_ticks_per_second() as f64;
        assert_eq!(stat.cpu_seconds, 2300.0 / hz);
        assert_eq!(stat.started, 1900.0 / hz);
        assert_eq!(stat.virtual_bytes, 2000);
        assert_eq!(
            stat.resident_bytes,
            2100 * rustix::param::page_size() as u64
        );
    }

    #[test]
    fn this_process_has_memory_and_a_start() {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Process::default()));
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|rest| rest.trim().parse::<f64>().ok())
                .unwrap_or_else(|| panic!("{name} is missing in {text}"))
        };
        assert!(value("process_resident_memory_bytes ") > 1e6);
        assert!(value("process_cpu_seconds_total ") >= 0.0);
        assert!(value("process_start_time_seconds ") > 1.7e9);
        assert!(value("process_max_fds ") > 0.0);
    }
}

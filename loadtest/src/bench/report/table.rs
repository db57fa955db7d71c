//! The report for people.

use std::fmt;

use super::{Report, Spread, Summary};
use crate::bench::plan::{Load, Shape};
use crate::latency::human_us;

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let machine = &self.machine;
        writeln!(
            out,
            "{}, {} processors, Linux {}, load {}, commit {}, {}",
            machine.processor,
            machine.processors,
            machine.kernel,
            machine.load,
            machine.commit,
            machine.date
        )?;
        for (broker, version) in self
            .brokers
            .iter()
            .filter(|(_, version)| !version.is_empty())
        {
            writeln!(out, "{broker}: {version}")?;
        }
        let pinned = match self.pinned {
            Some((broker, own)) => format!("broker on processor {broker}, load on {own}"),
            None => "nothing pinned".to_owned(),
        };
        writeln!(out, "MQTT {}, {pinned}; medians", self.mqtt)?;
        let (idle, steady): (Vec<_>, Vec<_>) = self
            .summaries
            .iter()
            .partition(|summary| summary.workload.shape == Shape::Idle);
        if !steady.is_empty() {
            write_steady(out, &steady)?;
            write_roles(out, &steady)?;
            write_latencies(out, &steady)?;
        }
        if !idle.is_empty() {
            write_idle(out, &idle)?;
        }
        let stored = |one: &&&Summary| one.bytes_each.is_some();
        for one in steady.iter().filter(stored) {
            let bytes = optional(one.bytes_each.map(|bytes| bytes.median), 0);
            let (name, broker) = (one.workload.name(), &one.broker);
            writeln!(out, "{name} on {broker}: {bytes} bytes of memory for each")?;
        }
        let lazy = |one: &&&Summary| one.workload.deaf + one.workload.slow > 0;
        for one in steady.iter().filter(lazy) {
            let grown = one.grown.map(|grown| grown.median / 1024.0);
            let (name, broker) = (one.workload.name(), &one.broker);
            writeln!(
                out,
                "{name} on {broker}: {} KiB more memory",
                optional(grown, 0)
            )?;
        }
        if !self.verdicts.is_empty() {
            let met = self.verdicts.iter().filter(|one| one.is_met()).count();
            writeln!(out, "\nasked for: {met} of {} are met", self.verdicts.len())?;
        }
        for verdict in &self.verdicts {
            writeln!(out, "{verdict}")?;
        }
        Ok(())
    }
}

fn optional(value: Option<f64>, decimals: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.decimals$}"))
}

/// A latency, where any was counted: none is below a microsecond.
fn measured(latency: Spread) -> String {
    if latency.max > 0.0 {
        human_us(latency.median)
    } else {
        "-".to_owned()
    }
}

fn range(spread: Option<Spread>) -> String {
    spread.map_or_else(
        || "-".to_owned(),
        |spread| format!("{:.2}-{:.2}", spread.min, spread.max),
    )
}

fn write_steady(out: &mut fmt::Formatter<'_>, summaries: &[&Summary]) -> fmt::Result {
    writeln!(
        out,
        "\n{:<34} {:<12} {:>10} {:>9} {:>13} {:>6} {:>7} {:>9} {:>10} {:>10} {:>6} {:>6} {:>6} {:>6}",
        "workload",
        "broker",
        "msg/s",
        "µs/msg",
        "min-max",
        "ratio",
        "own µs",
        "switches",
        "p50",
        "p99",
        "lost",
        "again",
        "late",
        "others"
    )?;
    for one in summaries {
        writeln!(
            out,
            "{:<34} {:<12} {:>10.0} {:>9} {:>13} {:>6} {:>7.2} {:>9} {:>10} {:>10} {:>6} {:>6} {:>6} {:>6}",
            one.workload.name(),
            one.broker,
            one.delivered_per_s.median,
            optional(one.cpu_us.map(|cpu| cpu.median), 2),
            range(one.cpu_us),
            optional(one.cpu_ratio, 2),
            one.own_cpu_us.median,
            optional(one.switches_per_thousand.map(|switches| switches.median), 1),
            measured(one.latency.p50_us),
            measured(one.latency.p99_us),
            one.lost,
            one.duplicated,
            one.reordered,
            one.others.map_or_else(
                || "-".to_owned(),
                |part| format!("{:.0}%", part.median * 100.0)
            )
        )?;
    }
    writeln!(
        out,
        "µs/msg: CPU time of the broker per delivered message (churn: per visit; of what is stored: per stored one); ratio: to the last broker; own µs: the load generator's;\n\
         switches: context switches of the broker per 1000 messages; again, late: repeated, reordered;\n\
         others: part of the processors that somebody else used: latency and throughput suffer from it"
    )
}

/// Only where there is more than one role.
fn write_roles(out: &mut fmt::Formatter<'_>, summaries: &[&Summary]) -> fmt::Result {
    if summaries.iter().all(|one| one.roles.len() < 2) {
        return Ok(());
    }
    writeln!(
        out,
        "\n{:<34} {:<12} {:>9}  µs/msg by role",
        "workload", "broker", "all"
    )?;
    for one in summaries {
        let roles: Vec<String> = one
            .roles
            .iter()
            .map(|(role, cost)| format!("{role} {:.2}", cost.median))
            .collect();
        writeln!(
            out,
            "{:<34} {:<12} {:>9}  {}",
            one.workload.name(),
            one.broker,
            optional(one.cpu_us.map(|cpu| cpu.median), 2),
            roles.join(", ")
        )?;
    }
    Ok(())
}

/// Only of loads that do not saturate: with a window, latency is that of its queue.
fn write_latencies(out: &mut fmt::Formatter<'_>, summaries: &[&Summary]) -> fmt::Result {
    let paced: Vec<&&Summary> = summaries
        .iter()
        .filter(|one| !matches!(one.workload.load, Load::Window(_)))
        .filter(|one| one.latency.p50_us.max > 0.0)
        .collect();
    if paced.is_empty() {
        return Ok(());
    }
    writeln!(
        out,
        "\n{:<34} {:<12} {:<9} {:>10} {:>10} {:>10} {:>23}",
        "workload", "broker", "until", "p50", "p99", "p99.9", "p99 min-max"
    )?;
    for one in paced {
        let acknowledged = one.ack_latency.map(|latency| ("ack", latency));
        for (until, latency) in acknowledged.into_iter().chain([("delivery", one.latency)]) {
            writeln!(
                out,
                "{:<34} {:<12} {:<9} {:>10} {:>10} {:>10} {:>23}",
                one.workload.name(),
                one.broker,
                until,
                human_us(latency.p50_us.median),
                human_us(latency.p99_us.median),
                human_us(latency.p999_us.median),
                format!(
                    "{}-{}",
                    human_us(latency.p99_us.min),
                    human_us(latency.p99_us.max)
                )
            )?;
        }
    }
    writeln!(
        out,
        "until ack: PUBACK or PUBREC; both from when a message was due"
    )
}

fn write_idle(out: &mut fmt::Formatter<'_>, summaries: &[&Summary]) -> fmt::Result {
    writeln!(
        out,
        "\n{:<34} {:<12} {:>18} {:>18}",
        "connections", "broker", "bytes each", "µs CPU to connect"
    )?;
    for one in summaries {
        writeln!(
            out,
            "{:<34} {:<12} {:>18} {:>18}",
            one.workload.name(),
            one.broker,
            optional(one.bytes_each.map(|bytes| bytes.median), 0),
            optional(one.cpu_us.map(|cpu| cpu.median), 1)
        )?;
    }
    writeln!(
        out,
        "bytes each: the broker's anonymous memory; the kernel's socket buffers are not in it"
    )
}

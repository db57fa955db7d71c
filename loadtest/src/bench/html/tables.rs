//! All figures as tables.

use std::fmt::Write as _;

use super::escape;
use super::scale::short;
use crate::bench::report::Summary;
use crate::bench::{Outcome, Report, Spread};
use crate::latency::{Percentiles, human_us};

const NOTHING: &str = "–";

/// Medians of each workload on each broker.
pub(super) fn summaries(report: &Report) -> String {
    let head = [
        "",
        "",
        "runs",
        "msg/s",
        "CPU µs",
        "min–max",
        "ratio",
        "own µs",
        "switches",
        "p50",
        "p99",
        "p99.9",
        "bytes each",
        "lost",
        "repeated",
        "late",
        "others",
    ];
    let mut html = "<h2>All figures</h2>\n<p>Medians. Ratio: CPU time in parts of that of the broker named last. Own: CPU time of the \
        load generator. Switches: context switches of the broker for 1000 messages. Others: part of the processors that somebody \
        else used; latency and throughput suffer from it.</p>\n"
        .to_owned();
    html += &open(&head);
    let mut before = String::new();
    for one in &report.summaries {
        let name = one.workload.name();
        let shown = if name == before { "" } else { &name };
        html += &summary(one, shown);
        before.clone_from(&name);
    }
    html + "</table></div>\n"
}

fn summary(one: &Summary, name: &str) -> String {
    let median =
        |spread: Option<Spread>| spread.map_or_else(nothing, |spread| short(spread.median));
    let range = |spread: Option<Spread>| {
        spread.map_or_else(nothing, |spread| {
            format!("{}–{}", short(spread.min), short(spread.max))
        })
    };
    let latency = |spread: Spread| {
        if spread.max > 0.0 {
            human_us(spread.median)
        } else {
            nothing()
        }
    };
    let cells = [
        one.runs.to_string(),
        median(Some(one.delivered_per_s).filter(|rate| rate.max > 0.0)),
        median(one.cpu_us),
        range(one.cpu_us),
        one.cpu_ratio
            .map_or_else(nothing, |ratio| format!("{ratio:.2}")),
        median(Some(one.own_cpu_us)),
        median(one.switches_per_thousand),
        latency(one.latency.p50_us),
        latency(one.latency.p99_us),
        latency(one.latency.p999_us),
        median(one.bytes_each),
    ];
    let bad = [
        (one.lost, one.workload.qos > 0),
        (one.duplicated, one.workload.qos == 2),
        (one.reordered, true),
    ];
    let others = one.others.map(|part| part.median);
    row([name, &one.broker], &cells, &bad, others)
}

/// What was asked for, and what came of it.
pub(super) fn verdicts(report: &Report) -> String {
    if report.verdicts.is_empty() {
        return String::new();
    }
    let met = report.verdicts.iter().filter(|one| one.is_met()).count();
    let mut html = format!(
        "<h2>What is asked for</h2>\n<p>{met} of {} are met; medians count.</p>\n{}",
        report.verdicts.len(),
        open(&["", "", "", "found"])
    );
    for one in &report.verdicts {
        let (class, text) = if one.is_met() {
            ("left", "met")
        } else {
            ("left bad", "not met")
        };
        let _written = writeln!(
            html,
            "<tr><td>{}</td><td class=\"left\">{}</td><td class=\"{class}\">{text}</td><td>{}</td></tr>",
            escape(&one.workload.name()),
            escape(&one.asked()),
            escape(&one.told())
        );
    }
    html + "</table></div>\n"
}

/// Every measurement, in the order in which they were made.
pub(super) fn outcomes(report: &Report) -> String {
    let head = [
        "",
        "",
        "seconds",
        "delivered",
        "msg/s",
        "CPU µs",
        "by role",
        "own µs",
        "user s",
        "system s",
        "RSS MiB",
        "grown MiB",
        "switches",
        "forced",
        "threads",
        "p50",
        "p99",
        "p99.9",
        "max",
        "ack p50",
        "ack p99",
        "lost",
        "repeated",
        "late",
        "stalls",
        "others",
    ];
    let mut html = format!(
        "<details><summary>Each of the {} measurements</summary>\n{}",
        report.outcomes.len(),
        open(&head)
    );
    for one in &report.outcomes {
        html += &outcome(one);
    }
    html + "</table></div></details>\n"
}

fn outcome(one: &Outcome) -> String {
    let usage = |of: fn(&crate::proc::Usage) -> f64| {
        one.broker_usage
            .map_or_else(nothing, |usage| short(of(&usage)))
    };
    let latency = |of: &Percentiles, value: f64| {
        if of.count == 0 {
            nothing()
        } else {
            human_us(value)
        }
    };
    let roles: Vec<String> = one
        .roles
        .iter()
        .map(|role| format!("{} {}", role.role, short(role.cpu_us)))
        .collect();
    let cells = [
        short(one.seconds),
        one.delivered.to_string(),
        short(one.delivered_per_s),
        one.cpu_us.map_or_else(nothing, short),
        if roles.len() > 1 {
            roles.join(", ")
        } else {
            nothing()
        },
        short(one.own_cpu_us),
        usage(|usage| usage.user_ns as f64 / 1e9),
        usage(|usage| usage.system_ns as f64 / 1e9),
        usage(|usage| usage.rss as f64 / (1u64 << 20) as f64),
        one.grown
            .map_or_else(nothing, |bytes| short(bytes / (1u64 << 20) as f64)),
        usage(|usage| usage.switches_voluntary as f64),
        usage(|usage| usage.switches_involuntary as f64),
        usage(|usage| usage.threads as f64),
        latency(&one.latency, one.latency.p50_us),
        latency(&one.latency, one.latency.p99_us),
        latency(&one.latency, one.latency.p999_us),
        latency(&one.latency, one.latency.max_us),
        latency(&one.ack_latency, one.ack_latency.p50_us),
        latency(&one.ack_latency, one.ack_latency.p99_us),
    ];
    let bad = [
        (one.lost, one.workload.qos > 0),
        (one.duplicated, one.workload.qos == 2),
        (one.reordered, true),
        (one.stalls, true),
    ];
    row(
        [&one.workload.name(), &one.broker],
        &cells,
        &bad,
        one.others,
    )
}

/// A row: workload and broker, figures, counts that may have to be 0, and the part of the machine that others used.
fn row(
    [workload, broker]: [&str; 2],
    cells: &[String],
    bad: &[(u64, bool)],
    others: Option<f64>,
) -> String {
    let mut row = format!(
        "<tr><td>{}</td><td class=\"left\">{}</td>",
        escape(workload),
        escape(broker)
    );
    let cells = cells.iter();
    row.extend(cells.map(|cell| format!("<td>{}</td>", escape(cell))));
    row.extend(
        bad.iter()
            .map(|(count, must_not)| counted(*count, *must_not)),
    );
    let others = others.map_or_else(nothing, |part| format!("{:.0} %", part * 100.0));
    row + &format!("<td>{}</td></tr>\n", escape(&others))
}

fn open(head: &[&str]) -> String {
    let cells: String = head
        .iter()
        .map(|name| format!("<th>{}</th>", escape(name)))
        .collect();
    format!("<div class=\"wide\"><table><tr>{cells}</tr>\n")
}

/// A number that should be 0.
fn counted(count: u64, must_not: bool) -> String {
    if count > 0 && must_not {
        format!("<td class=\"bad\">{count}</td>")
    } else {
        format!("<td>{count}</td>")
    }
}

fn nothing() -> String {
    NOTHING.to_owned()
}

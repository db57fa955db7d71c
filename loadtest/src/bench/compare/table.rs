//! The comparison for people.

use std::fmt;

use super::{Comparison, Ratio};

impl fmt::Display for Comparison {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "A: {}\nB: {}", self.titles.0, self.titles.1)?;
        for difference in &self.differences {
            writeln!(out, "not the same: {difference}")?;
        }
        writeln!(
            out,
            "\n{:<40} {:<24} {:<12} {:>10} {:>10} {:>7} {:>13}",
            "workload", "broker", "", "A", "B", "B / A", "min-max"
        )?;
        for line in &self.lines {
            let (one, other) = &line.brokers;
            let brokers = if one == other {
                one.clone()
            } else {
                format!("{one}, {other}")
            };
            let (mut name, mut brokers) = (line.workload.name(), brokers);
            for ratio in &line.ratios {
                write_ratio(out, &name, &brokers, ratio)?;
                // Said once.
                name.clear();
                brokers.clear();
            }
        }
        if self.alone > 0 {
            writeln!(out, "{} measurements are in one of them only", self.alone)?;
        }
        writeln!(
            out,
            "medians; min-max: of any repetition of B by any of A; ~: the two overlap, or are of fewer\n\
             than three repetitions, so that the ratio may be chance"
        )
    }
}

fn write_ratio(
    out: &mut fmt::Formatter<'_>,
    name: &str,
    brokers: &str,
    ratio: &Ratio,
) -> fmt::Result {
    writeln!(
        out,
        "{name:<40} {brokers:<24} {:<12} {:>10} {:>10} {:>7.2} {:>13} {}",
        ratio.figure.name(),
        short(ratio.first.median),
        short(ratio.second.median),
        ratio.ratio.median,
        format!("{:.2}-{:.2}", ratio.ratio.min, ratio.ratio.max),
        if ratio.is_sure() { "" } else { "~" }
    )
}

/// Three digits that matter, or all before the point.
fn short(value: f64) -> String {
    if value < 10.0 {
        format!("{value:.2}")
    } else if value < 100.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.0}")
    }
}

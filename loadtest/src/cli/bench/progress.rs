//! How far a run is: a bar on a terminal, a line for each measurement everywhere.

use std::io::IsTerminal as _;

use indicatif::{ProgressBar, ProgressStyle};

use crate::bench::{Outcome, Shape, Step};
use crate::latency::human_us;

/// Filled up to where the run is; then what is measured, and how long the rest may take.
const BAR: &str = "{wide_bar} {pos}/{len}, {eta} left\n{msg}";

pub(super) struct Progress {
    bar: Option<ProgressBar>,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self {
            bar: std::io::stderr().is_terminal().then(bar),
        }
    }

    pub(super) fn show(&self, step: Step<'_>) {
        let what = format!("{} on {}", step.workload.name(), step.broker);
        match (&self.bar, step.outcome) {
            (Some(bar), None) => {
                bar.set_length(step.total as u64);
                bar.set_message(what);
                bar.tick();
            }
            (None, None) => {}
            (Some(bar), Some(outcome)) => {
                bar.println(format!("{what}: {}", line(outcome)));
                bar.set_position(step.number as u64);
            }
            (None, Some(outcome)) => {
                eprintln!("[{}/{}] {what}: {}", step.number, step.total, line(outcome));
            }
        }
    }

    pub(super) fn end(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}

fn bar() -> ProgressBar {
    let bar = ProgressBar::new(1);
    // The template is a constant that the library accepts; otherwise its own style remains.
    if let Ok(style) = ProgressStyle::with_template(BAR) {
        bar.set_style(style);
    }
    bar
}

/// What came out, in short.
fn line(outcome: &Outcome) -> String {
    let cost = outcome
        .cpu_us
        .map_or_else(|| "unknown".to_owned(), |cpu| format!("{cpu:.2} µs"));
    let bytes = outcome.bytes_each.map_or_else(String::new, |memory| {
        format!("{:.0} bytes each, ", memory.anonymous)
    });
    if outcome.workload.shape == Shape::Idle {
        return format!("{bytes}connect {cost}");
    }
    let what = if outcome.workload.shape == Shape::Churn {
        "visits"
    } else {
        "messages"
    };
    format!(
        "{bytes}{:.0} {what}/s, {cost} each, p99 {}",
        outcome.delivered_per_s,
        human_us(outcome.latency.p99_us)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_style_of_the_bar_is_one_that_the_library_accepts() {
        assert!(ProgressStyle::with_template(BAR).is_ok());
    }
}

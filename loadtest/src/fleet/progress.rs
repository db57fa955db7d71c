//! What a fleet shows while it runs: a bar on a terminal, else a line now and then. On standard error.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::tally::Tally;
use crate::latency::human_us;

const BAR: &str = "{elapsed_precise} [{wide_bar}] {pos}/{len} {msg}";

pub(crate) enum Progress {
    Bar(ProgressBar),
    Lines { total: u64 },
    Quiet,
}

impl Progress {
    pub(crate) fn new(total: u64, terminal: bool, quiet: bool) -> Self {
        if quiet {
            return Self::Quiet;
        }
        if !terminal {
            return Self::Lines { total };
        }
        let style =
            ProgressStyle::with_template(BAR).unwrap_or_else(|_| ProgressStyle::default_bar());
        Self::Bar(ProgressBar::new(total).with_style(style))
    }

    /// How often to call [`Self::update`].
    pub(crate) fn interval(&self) -> Duration {
        match self {
            Self::Bar(_) => Duration::from_millis(200),
            Self::Lines { .. } | Self::Quiet => Duration::from_secs(5),
        }
    }

    pub(crate) fn connecting(&self, connected: usize, count: usize) {
        match self {
            Self::Bar(bar) => bar.set_message(format!("connecting {connected} of {count} devices")),
            Self::Lines { .. } if connected == count => eprintln!("{count} devices are connected"),
            Self::Lines { .. } | Self::Quiet => {}
        }
    }

    pub(crate) fn update(&self, tally: &Tally) {
        let counts = tally.total();
        let p99 = human_us(tally.latencies.percentiles().p99_us);
        let trouble = if tally.reconnects > 0 {
            format!(", {} reconnects", tally.reconnects)
        } else {
            String::new()
        };
        match self {
            Self::Bar(bar) => {
                bar.set_position(counts.acknowledged + counts.failed);
                bar.set_message(format!("p99 {p99}{trouble}"));
            }
            Self::Lines { total } => eprintln!(
                "{} of {total} acknowledged, {} failed, p99 {p99}{trouble}",
                counts.acknowledged, counts.failed
            ),
            Self::Quiet => {}
        }
    }

    pub(crate) fn end(&self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

//! Latencies in a histogram of bounded size (HDR: three significant digits from 1 µs to an hour).

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

const LOWEST_NS: u64 = 1_000;
const HIGHEST_NS: u64 = 3_600_000_000_000;

/// Parts of one that are above the points of a curve.
const CURVE: &[f64] = &[
    1.0, 0.9, 0.75, 0.5, 0.4, 0.3, 0.25, 0.2, 0.15, 0.1, 0.075, 0.05, 0.03, 0.02, 0.01, 0.005,
    0.002, 0.001, 0.000_5, 0.000_2, 0.000_1, 0.000_05, 0.000_02, 0.000_01, 0.000_001,
];

/// Collects latencies; what is above an hour counts as an hour.
#[derive(Debug, Clone)]
pub struct Latencies {
    histogram: Option<Histogram<u64>>,
}

/// What a report says of latencies, in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Percentiles {
    /// Values counted.
    pub count: u64,
    /// Arithmetic mean.
    pub mean_us: f64,
    /// Half are below.
    pub p50_us: f64,
    /// 90 of 100 are below.
    pub p90_us: f64,
    /// 99 of 100 are below.
    pub p99_us: f64,
    /// 999 of 1000 are below.
    pub p999_us: f64,
    /// The greatest.
    pub max_us: f64,
}

impl Default for Latencies {
    fn default() -> Self {
        // The bounds are constants that the library accepts; a test holds that.
        Self {
            histogram: Histogram::new_with_bounds(LOWEST_NS, HIGHEST_NS, 3).ok(),
        }
    }
}

impl Latencies {
    /// Counts one.
    pub fn record(&mut self, latency: Duration) {
        self.record_ns(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Counts one, in nanoseconds.
    pub fn record_ns(&mut self, nanoseconds: u64) {
        if let Some(histogram) = &mut self.histogram {
            histogram.saturating_record(nanoseconds.clamp(LOWEST_NS, HIGHEST_NS));
        }
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        if let Some(histogram) = &mut self.histogram {
            histogram.reset();
        }
    }

    /// What a plot needs: parts of a hundred, and the microseconds that so many took at most; dense where
    /// few are. Empty where nothing was counted.
    #[must_use]
    pub fn curve(&self) -> Vec<(f64, f64)> {
        let counted = self.histogram.as_ref();
        let Some(histogram) = counted.filter(|histogram| !histogram.is_empty()) else {
            return Vec::new();
        };
        // More nines than there are values would only repeat the greatest.
        let least = 1.0 / histogram.len() as f64;
        let parts = CURVE.iter().filter(|above| **above >= least);
        let points = parts.map(|above| 1.0 - above).chain([1.0]);
        points
            .map(|part| {
                let us = histogram.value_at_quantile(part) as f64 / 1000.0;
                (part * 100.0, us)
            })
            .collect()
    }

    /// The summary.
    #[must_use]
    pub fn percentiles(&self) -> Percentiles {
        let Some(histogram) = self
            .histogram
            .as_ref()
            .filter(|histogram| !histogram.is_empty())
        else {
            return Percentiles::default();
        };
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1000.0;
        Percentiles {
            count: histogram.len(),
            mean_us: histogram.mean() / 1000.0,
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: histogram.max() as f64 / 1000.0,
        }
    }
}

/// `1.25 ms`: a duration for people, given in microseconds.
#[must_use]
pub fn human_us(us: f64) -> String {
    if us < 1_000.0 {
        format!("{us:.0} µs")
    } else if us < 1_000_000.0 {
        format!("{:.2} ms", us / 1_000.0)
    } else {
        format!("{:.2} s", us / 1_000_000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_values() {
        let mut latencies = Latencies::default();
        for ms in 1..=1000 {
            latencies.record(Duration::from_millis(ms));
        }
        let found = latencies.percentiles();
        assert_eq!(found.count, 1000);
        for (value, expected) in [
            (found.p50_us, 500_000.0),
            (found.p90_us, 900_000.0),
            (found.p99_us, 990_000.0),
            (found.p999_us, 999_000.0),
            (found.max_us, 1_000_000.0),
        ] {
            assert!(
                (value / expected - 1.0).abs() < 0.001,
                "{value} for {expected}"
            );
        }
    }

    #[test]
    fn a_curve_rises_to_the_greatest_and_has_no_more_nines_than_values() {
        let mut latencies = Latencies::default();
        assert!(latencies.curve().is_empty());
        for ms in 1..=1000 {
            latencies.record(Duration::from_millis(ms));
        }
        let curve = latencies.curve();
        assert!(curve.is_sorted_by(|one, next| one.0 < next.0 && one.1 <= next.1));
        let before_last = curve.get(curve.len() - 2).unwrap().0;
        assert!((before_last - 99.9).abs() < 1e-9, "{curve:?}");
        let last = curve.last().unwrap();
        assert!((last.1 / 1e6 - 1.0).abs() < 0.001 && last.0 == 100.0);
    }

    #[test]
    fn values_out_of_range_count_at_its_ends() {
        let mut latencies = Latencies::default();
        latencies.record(Duration::ZERO);
        latencies.record(Duration::from_secs(100_000));
        assert_eq!(latencies.percentiles().count, 2);
    }
}

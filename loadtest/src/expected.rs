//! What a query over the warehouse must answer, computed from the input files alone.
//!
//! All arithmetic is exact. A cell is a decimal; a month's sum is an integer in units of the column's last
//! decimal (tenths for the temperatures). The mean is sum divided by count, rounded half to even to four
//! places, for people to read; machines compare `sum` and `count`. Nothing here touches the generators that
//! the fleet publishes from: they are what is being checked.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use crate::error::Error;
use crate::scenario::{Scenario, Spread, Station};

/// The figures of one station in one month.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Month {
    /// Name of the station.
    pub station: String,
    /// `YYYY-MM`.
    pub month: String,
    /// Readings that have the field.
    pub count: u64,
    /// Their sum in units of 10^-decimals.
    pub sum: i64,
    /// Decimals of the column.
    pub decimals: u32,
    /// Sum / count, rounded half to even to four places.
    pub mean: String,
}

/// The rows of one station.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rows {
    /// Name of the station.
    pub station: String,
    /// All its messages, with or without the field.
    pub rows: u64,
    /// The text of its `unit` field, where it has one.
    pub unit: Option<String>,
}

/// Everything `loadtest expected` prints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Expected {
    /// The field of the figures.
    pub field: String,
    /// How `mean` came about.
    pub rounding: &'static str,
    /// By station, in the order of the scenario.
    pub stations: Vec<Rows>,
    /// By station and month.
    pub months: Vec<Month>,
    /// All messages.
    pub rows: u64,
}

const ROUNDING: &str = "mean = sum / count / 10^decimals, exact, rounded half to even to 4 places";

/// Computes the figures of a field.
///
/// # Errors
/// [`Error::Option`] when a station's figures do not follow from its file: noise, gaps, replicated or
/// computed values. [`Error::Data`] when a cell is not a decimal number.
pub fn compute(scenario: &Scenario, field: &str) -> Result<Expected, Error> {
    let mut expected = Expected {
        field: field.to_owned(),
        rounding: ROUNDING,
        stations: Vec::new(),
        months: Vec::new(),
        rows: 0,
    };
    for station in &scenario.stations {
        let rows = station_rows(station)?;
        expected.rows += rows;
        expected.stations.push(Rows {
            station: station.name.clone(),
            rows,
            unit: station.constant("unit"),
        });
        if let Some(cells) = station.plain_column(field) {
            expected.months.extend(months(station, &cells)?);
        }
    }
    Ok(expected)
}

fn station_rows(station: &Station) -> Result<u64, Error> {
    let unknown = |why: &str| {
        Error::Option(format!(
            "station {} {why}: what it publishes does not follow from an input file; use --clean, or a scenario that replays one",
            station.name
        ))
    };
    if station.table.is_none() {
        return Err(unknown("has no table"));
    }
    if station.spread == Spread::Replicate {
        return Err(unknown("is replicated on every device"));
    }
    if station.has_gaps() {
        return Err(unknown("has gaps or empty cells"));
    }
    Ok(station.steps() as u64)
}

fn months(station: &Station, cells: &[Box<str>]) -> Result<Vec<Month>, Error> {
    let decimals = cells
        .iter()
        .map(|cell| cell.split_once('.').map_or(0, |(_, tail)| tail.len()))
        .max()
        .unwrap_or(0);
    let mut sums: BTreeMap<String, (u64, i64)> = BTreeMap::new();
    for (row, cell) in cells.iter().enumerate() {
        if cell.is_empty() {
            continue;
        }
        let bad = || Error::Data {
            name: station.name.clone(),
            problem: format!(
                "line {}: {cell:?} is not a decimal number that can be summed",
                row + 2
            ),
        };
        let at = station.clock.at(row).ok_or_else(bad)?;
        let (count, sum) = sums.entry(at.month()).or_default();
        *count += 1;
        *sum = scaled(cell, decimals)
            .and_then(|number| sum.checked_add(number))
            .ok_or_else(bad)?;
    }
    let decimals = u32::try_from(decimals).unwrap_or(u32::MAX);
    Ok(sums
        .into_iter()
        .map(|(month, (count, sum))| Month {
            station: station.name.clone(),
            month,
            count,
            sum,
            decimals,
            mean: mean(sum, count, decimals),
        })
        .collect())
}

/// `39.4` with one decimal is 394.
fn scaled(cell: &str, decimals: usize) -> Option<i64> {
    let (whole, fraction) = cell.split_once('.').unwrap_or((cell, ""));
    let mut digits = format!("{whole}{fraction}");
    for _ in fraction.len()..decimals {
        digits.push('0');
    }
    digits.parse().ok()
}

/// sum / 10^decimals / count with four places, half to even.
fn mean(sum: i64, count: u64, decimals: u32) -> String {
    let Some(divisor) = 10_i128
        .checked_pow(decimals)
        .map(|scale| scale * i128::from(count))
    else {
        return "out of range".to_owned();
    };
    if divisor == 0 {
        return "none".to_owned();
    }
    let dividend = i128::from(sum) * 10_000;
    let (mut quotient, rest) = (dividend.div_euclid(divisor), dividend.rem_euclid(divisor));
    if rest * 2 > divisor || (rest * 2 == divisor && quotient % 2 != 0) {
        quotient += 1;
    }
    let sign = if quotient < 0 { "-" } else { "" };
    let size = quotient.unsigned_abs();
    format!("{sign}{}.{:04}", size / 10_000, size % 10_000)
}

impl Expected {
    /// The figures as a table for people.
    #[must_use]
    pub fn to_table(&self) -> String {
        let mut out = String::new();
        let unit = |name: &str| {
            let station = self.stations.iter().find(|rows| rows.station == name);
            station
                .and_then(|rows| rows.unit.clone())
                .unwrap_or_default()
        };
        let mut line = |text: String| {
            // Writing to a String cannot fail.
            let _ignored = writeln!(out, "{text}");
        };
        line(format!(
            "{:<20} {:<8} {:>7} {:>12} {:>12} {}",
            "station", "month", "count", "sum", "mean", "unit"
        ));
        for month in &self.months {
            let decimals = month.decimals as usize;
            line(format!(
                "{:<20} {:<8} {:>7} {:>12} {:>12} {}",
                month.station,
                month.month,
                month.count,
                decimal(month.sum, decimals),
                month.mean,
                unit(&month.station)
            ));
        }
        for rows in &self.stations {
            line(format!("{:<20} {} rows", rows.station, rows.rows));
        }
        line(format!("{:<20} {} rows", "all", self.rows));
        line(self.rounding.to_owned());
        out
    }
}

fn decimal(scaled: i64, decimals: usize) -> String {
    let sign = if scaled < 0 { "-" } else { "" };
    let digits = format!("{:0>width$}", scaled.unsigned_abs(), width = decimals + 1);
    let (whole, fraction) = digits.split_at(digits.len() - decimals);
    if fraction.is_empty() {
        format!("{sign}{whole}")
    } else {
        format!("{sign}{whole}.{fraction}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Overrides;
    use std::path::Path;

    fn replay() -> Expected {
        compute(
            &Scenario::default_replay(Overrides::default()).unwrap(),
            "temperature",
        )
        .unwrap()
    }

    #[test]
    fn figures_are_those_computed_by_hand_outside() {
        // By Python's integers and fractions, straight from the files.
        let known = [
            ("seattle", "2010-01", 744, 310_278, "41.7040"),
            ("seattle", "2010-03", 743, 341_283, "45.9331"),
            ("seattle", "2010-12", 744, 301_557, "40.5319"),
            ("san-francisco", "2010-01", 744, 371_882, "49.9841"),
            ("san-francisco", "2010-09", 720, 449_907, "62.4871"),
        ];
        let expected = replay();
        assert_eq!(expected.months.len(), 24);
        assert_eq!(expected.rows, 8759 + 8759 + 1461);
        for (station, month, count, sum, mean) in known {
            let found = expected
                .months
                .iter()
                .find(|known| known.station == station && known.month == month)
                .unwrap();
            assert_eq!(
                (found.count, found.sum, found.mean.as_str()),
                (count, sum, mean)
            );
        }
    }

    #[test]
    fn sums_agree_with_the_file_read_by_other_means() {
        let text = include_str!("../data/sf-temps.csv");
        let mut sums: BTreeMap<String, (u64, i64)> = BTreeMap::new();
        for line in text.lines().skip(1) {
            let (temperature, date) = line.split_once(',').unwrap();
            let entry = sums
                .entry(date.get(..7).unwrap().replace('/', "-"))
                .or_default();
            entry.0 += 1;
            entry.1 += temperature.replace('.', "").parse::<i64>().unwrap();
        }
        let found: BTreeMap<String, (u64, i64)> = replay()
            .months
            .into_iter()
            .filter(|month| month.station == "san-francisco")
            .map(|month| (month.month, (month.count, month.sum)))
            .collect();
        assert_eq!(found, sums);
    }

    #[test]
    fn means_are_rounded_half_to_even() {
        assert_eq!(mean(1, 8, 4), "0.0000"); // 0.0000125
        assert_eq!(mean(1, 2, 4), "0.0000"); // 0.00005
        assert_eq!(mean(3, 2, 4), "0.0002"); // 0.00015
        assert_eq!(mean(-1, 2, 4), "0.0000");
        assert_eq!(mean(-3, 2, 4), "-0.0002");
        assert_eq!(mean(-394, 1, 1), "-39.4000");
        assert_eq!(mean(1, 3, 0), "0.3333");
    }

    #[test]
    fn cells_of_any_length_are_summed_in_one_unit() {
        assert_eq!(scaled("39.4", 2), Some(3940));
        assert_eq!(scaled("-0.25", 2), Some(-25));
        assert_eq!(scaled("7", 1), Some(70));
        assert_eq!(scaled("rain", 1), None);
        assert_eq!(decimal(-25, 2), "-0.25");
    }

    #[test]
    fn figures_of_a_scenario_with_gaps_are_refused() {
        let text = crate::scenario::DEFAULT.replace(
            "column = \"temp\"",
            "column = \"temp\"\ngaps = { probability = 0.1, length = 1 }",
        );
        let scenario = Scenario::parse("t", &text, Path::new("."), Overrides::default()).unwrap();
        assert!(matches!(
            compute(&scenario, "temperature"),
            Err(Error::Option(_))
        ));
        let clean = Overrides {
            clean: true,
            seed: None,
        };
        let scenario = Scenario::parse("t", &text, Path::new("."), clean).unwrap();
        assert_eq!(compute(&scenario, "temperature").unwrap(), replay());
    }
}

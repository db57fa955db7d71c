//! Input tables: the real measurements, compiled in, and CSV files of one's own.
//!
//! A cell keeps its text exactly as it is in the file: `39.0` is published as `39.0`. Nothing passes
//! through floating point on the way from the file to the broker, so that sums over the warehouse can be
//! compared with sums over the file to the last digit.

use std::path::Path;
use std::sync::Arc;

use chrono::{DateTime, NaiveDate, NaiveDateTime};

use crate::error::Error;

/// Rows that one table may have; a table is held in memory.
pub const ROWS_MAX: usize = 10_000_000;

const BUILTIN: [(&str, &str); 3] = [
    ("seattle-temps", include_str!("../data/seattle-temps.csv")),
    ("sf-temps", include_str!("../data/sf-temps.csv")),
    (
        "seattle-weather",
        include_str!("../data/seattle-weather.csv"),
    ),
];

/// A point of virtual time: milliseconds since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// RFC 3339 with `Z`; milliseconds only where there are some.
    #[must_use]
    pub fn to_text(self) -> String {
        let form = if self.0 % 1000 == 0 {
            "%Y-%m-%dT%H:%M:%SZ"
        } else {
            "%Y-%m-%dT%H:%M:%S%.3fZ"
        };
        DateTime::from_timestamp_millis(self.0)
            .map_or_else(|| self.0.to_string(), |time| time.format(form).to_string())
    }

    /// `2010-01`, for figures by month.
    #[must_use]
    pub fn month(self) -> String {
        self.to_text().chars().take(7).collect()
    }

    /// Reads `YYYY/MM/DD`, `YYYY-MM-DD`, with or without `HH:MM` or `HH:MM:SS`, and RFC 3339.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if let Ok(time) = DateTime::parse_from_rfc3339(text) {
            return Some(Self(time.timestamp_millis()));
        }
        let text = text.replace('/', "-");
        let time = ["%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M"]
            .iter()
            .find_map(|form| NaiveDateTime::parse_from_str(&text, form).ok())
            .or_else(|| {
                NaiveDate::parse_from_str(&text, "%Y-%m-%d")
                    .ok()
                    .and_then(|day| day.and_hms_opt(0, 0, 0))
            })?;
        Some(Self(time.and_utc().timestamp_millis()))
    }
}

/// A CSV file by columns, its cells as the text that they are in the file.
#[derive(Debug, Clone)]
pub struct Table {
    name: String,
    columns: Vec<(String, Arc<[Box<str>]>)>,
    rows: usize,
}

impl Table {
    /// Reads `builtin:<name>`, or a file relative to `base`.
    ///
    /// # Errors
    /// [`Error::Data`] when there is no such table, or when it is not a CSV with a header line.
    pub fn open(name: &str, base: &Path) -> Result<Self, Error> {
        if let Some(builtin) = name.strip_prefix("builtin:") {
            return match BUILTIN.iter().find(|(known, _)| *known == builtin) {
                Some((_, text)) => Self::parse(name, text),
                None => Err(data_error(
                    name,
                    format!(
                        "there is no such built-in table; there are {}",
                        BUILTIN.map(|(known, _)| known).join(", ")
                    ),
                )),
            };
        }
        let text = std::fs::read_to_string(base.join(name))
            .map_err(|source| data_error(name, source.to_string()))?;
        Self::parse(name, &text)
    }

    /// Parses a CSV text with a header line.
    ///
    /// # Errors
    /// [`Error::Data`] when a line has another number of cells than the header, or there are more than
    /// [`ROWS_MAX`] of them.
    pub fn parse(name: &str, text: &str) -> Result<Self, Error> {
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        let header = reader
            .headers()
            .map_err(|problem| data_error(name, problem.to_string()))?
            .clone();
        let mut columns: Vec<Vec<Box<str>>> = header.iter().map(|_| Vec::new()).collect();
        let mut rows = 0;
        for record in reader.records() {
            let record = record.map_err(|problem| data_error(name, problem.to_string()))?;
            rows += 1;
            if rows > ROWS_MAX {
                return Err(data_error(name, format!("more than {ROWS_MAX} rows")));
            }
            for (column, cell) in columns.iter_mut().zip(record.iter()) {
                column.push(cell.trim().into());
            }
        }
        let columns = header
            .iter()
            .map(|title| title.trim().to_owned())
            .zip(columns.into_iter().map(Into::into))
            .collect();
        Ok(Self {
            name: name.to_owned(),
            columns,
            rows,
        })
    }

    /// Number of rows without the header.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The cells of a column, from top to bottom.
    ///
    /// # Errors
    /// [`Error::Data`] when there is no such column; the text names those there are.
    pub fn column(&self, title: &str) -> Result<Arc<[Box<str>]>, Error> {
        self.columns
            .iter()
            .find(|(known, _)| known == title)
            .map(|(_, cells)| Arc::clone(cells))
            .ok_or_else(|| {
                let known: Vec<&str> = self.columns.iter().map(|(name, _)| name.as_str()).collect();
                data_error(
                    &self.name,
                    format!("no column {title:?}; there are {}", known.join(", ")),
                )
            })
    }

    /// A column read as points in time.
    ///
    /// # Errors
    /// [`Error::Data`] with the line of the first cell that is not a time.
    pub fn times(&self, title: &str) -> Result<Arc<[Timestamp]>, Error> {
        self.column(title)?
            .iter()
            .enumerate()
            .map(|(row, cell)| {
                Timestamp::parse(cell).ok_or_else(|| {
                    let line = row + 2;
                    data_error(
                        &self.name,
                        format!("line {line}, column {title}: {cell:?} is not a time (like 2010/01/31 23:59)"),
                    )
                })
            })
            .collect()
    }
}

fn data_error(name: &str, problem: String) -> Error {
    Error::Data {
        name: name.to_owned(),
        problem,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_tables_have_the_rows_of_their_files() {
        let rows = |name| {
            Table::open(name, Path::new("."))
                .map(|table| table.rows())
                .unwrap_or(0)
        };
        assert_eq!(rows("builtin:seattle-temps"), 8759);
        assert_eq!(rows("builtin:sf-temps"), 8759);
        assert_eq!(rows("builtin:seattle-weather"), 1461);
    }

    #[test]
    fn cells_keep_their_text() {
        let table = Table::open("builtin:seattle-temps", Path::new(".")).unwrap();
        let cells = table.column("temp").unwrap();
        assert_eq!(cells.get(2).map(AsRef::as_ref), Some("39.0"));
    }

    #[test]
    fn an_unknown_column_is_answered_with_those_there_are() {
        let table = Table::parse("t.csv", "a,b\n1,2\n").unwrap();
        let text = table.column("c").unwrap_err().to_string();
        assert!(text.contains("a, b"), "{text}");
    }

    #[test]
    fn a_ragged_line_is_refused_with_its_number() {
        let text = Table::parse("t.csv", "a,b\n1,2\n3\n")
            .unwrap_err()
            .to_string();
        assert!(text.contains("line: 3"), "{text}");
    }

    #[test]
    fn a_cell_that_is_no_time_is_refused_with_its_line() {
        let table = Table::parse("t.csv", "when\n2010/01/01 00:00\nnoon\n").unwrap();
        let text = table.times("when").unwrap_err().to_string();
        assert!(text.contains("line 3"), "{text}");
    }

    #[test]
    fn times_of_all_three_files_are_read() {
        for (text, expected) in [
            ("2010/01/01 01:00", "2010-01-01T01:00:00Z"),
            ("2010/12/31 23:00:00", "2010-12-31T23:00:00Z"),
            ("2012/02/29", "2012-02-29T00:00:00Z"),
            ("2026-01-01T00:00:00.250Z", "2026-01-01T00:00:00.250Z"),
        ] {
            assert_eq!(
                Timestamp::parse(text).map(Timestamp::to_text).as_deref(),
                Some(expected)
            );
        }
        assert_eq!(Timestamp::parse("2010/02/29"), None);
    }
}

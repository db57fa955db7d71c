//! Which stations there are and what their devices measure: a TOML file, or the built-in replay.
//!
//! Raw to valid: the file is read with unknown keys refused, then everything is checked, and all problems
//! are reported at once. A valid [`Scenario`] can always be run.

mod build;
mod raw;

use std::path::Path;
use std::sync::Arc;

use crate::data::Timestamp;
use crate::error::Error;
use crate::generate::{Clock, Series};
use raw::{RawField, RawScenario};

/// The scenario that is run when none is named.
pub const DEFAULT: &str = include_str!("../scenarios/measurements.toml");

/// Bytes that a scenario file may have.
pub const FILE_BYTES_MAX: u64 = 1 << 20;

/// How the readings of a station are spread over its devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spread {
    /// The station has one series; its devices take turns, so that each reading is published once.
    Partition,
    /// Every device has a series of its own (with other random numbers), so that load grows with devices.
    Replicate,
}

/// A place with devices.
#[derive(Debug)]
pub struct Station {
    /// Its name: letters, digits, `.`, `_` and `-` only.
    pub name: String,
    /// Devices asked for; `None` for an equal share of all.
    pub devices: Option<usize>,
    /// How readings are spread over devices.
    pub spread: Spread,
    /// How much faster its clock runs than the others'.
    pub pace: f64,
    /// Topic with `{station}` and `{device}` to be filled in.
    pub topic: String,
    pub(crate) clock: Clock,
    pub(crate) table: Option<Arc<crate::data::Table>>,
    fields: Vec<RawField>,
    seed: u64,
    clean: bool,
}

/// A valid scenario.
#[derive(Debug)]
pub struct Scenario {
    /// The file, or `built-in`.
    pub name: String,
    /// The seed of all random numbers.
    pub seed: u64,
    /// At least one.
    pub stations: Vec<Station>,
}

/// What the command line changes in a scenario.
#[derive(Debug, Clone, Copy, Default)]
pub struct Overrides {
    /// Another seed.
    pub seed: Option<u64>,
    /// Leave out noise, outliers and gaps.
    pub clean: bool,
}

impl Scenario {
    /// Reads a scenario file; tables in it are relative to its folder.
    ///
    /// # Errors
    /// When the file cannot be read or is wrong, or a table cannot be read.
    pub fn open(path: &Path, overrides: Overrides) -> Result<Self, Error> {
        let unreadable = |source| Error::ScenarioUnreadable {
            path: path.to_owned(),
            source,
        };
        let size = std::fs::metadata(path).map_err(unreadable)?.len();
        if size > FILE_BYTES_MAX {
            return Err(Error::ScenarioInvalid {
                name: path.display().to_string(),
                problems: vec![format!("{size} bytes; at most {FILE_BYTES_MAX} are read")],
            });
        }
        let text = std::fs::read_to_string(path).map_err(unreadable)?;
        let base = path.parent().unwrap_or(Path::new("."));
        Self::parse(&path.display().to_string(), &text, base, overrides)
    }

    /// The built-in replay of the real measurements.
    ///
    /// # Errors
    /// None in a binary that passed its tests.
    pub fn default_replay(overrides: Overrides) -> Result<Self, Error> {
        Self::parse("built-in", DEFAULT, Path::new("."), overrides)
    }

    /// Reads the text of a scenario file.
    ///
    /// # Errors
    /// All its problems at once.
    pub fn parse(name: &str, text: &str, base: &Path, overrides: Overrides) -> Result<Self, Error> {
        let invalid = |problems| Error::ScenarioInvalid {
            name: name.to_owned(),
            problems,
        };
        let raw: RawScenario =
            toml::from_str(text).map_err(|problem| invalid(vec![problem.to_string()]))?;
        let seed = overrides.seed.or(raw.seed).unwrap_or(1);
        let mut problems = Vec::new();
        if raw.station.is_empty() {
            problems.push("there is no [[station]]".to_owned());
        }
        let mut stations: Vec<Station> = Vec::new();
        for raw in raw.station {
            if stations.iter().any(|station| station.name == raw.name) {
                problems.push(format!("station {}: the name is used twice", raw.name));
            }
            stations.extend(build::station(
                raw,
                base,
                seed,
                overrides.clean,
                &mut problems,
            ));
        }
        if problems.is_empty() {
            Ok(Self {
                name: name.to_owned(),
                seed,
                stations,
            })
        } else {
            Err(invalid(problems))
        }
    }

    /// How many devices each station has, of so many in all: those that name a number get it, the others
    /// share the rest equally, the first ones getting what is left over.
    ///
    /// # Errors
    /// [`Error::Option`] when there are fewer devices than stations, or fewer than the scenario names.
    pub fn share_out(&self, devices: usize) -> Result<Vec<usize>, Error> {
        let named: usize = self
            .stations
            .iter()
            .filter_map(|station| station.devices)
            .sum();
        let open = self
            .stations
            .iter()
            .filter(|station| station.devices.is_none())
            .count();
        if open == 0 {
            return Ok(self
                .stations
                .iter()
                .filter_map(|station| station.devices)
                .collect());
        }
        let rest = devices.saturating_sub(named);
        if rest < open {
            return Err(Error::Option(format!(
                "--devices {devices} is too few: the scenario names {named} and {open} more station(s) need at least one each"
            )));
        }
        let mut place = 0;
        Ok(self
            .stations
            .iter()
            .map(|station| {
                station.devices.unwrap_or_else(|| {
                    place += 1;
                    rest / open + usize::from(place <= rest % open)
                })
            })
            .collect())
    }
}

impl Station {
    /// A series of readings. For [`Spread::Partition`] there is one, `member` 0; for
    /// [`Spread::Replicate`] each device has the one of its number.
    #[must_use]
    pub fn series(&self, member: usize) -> Series {
        build::series(self, member)
    }

    /// The virtual time of its first step.
    #[must_use]
    pub fn begin(&self) -> Timestamp {
        self.clock.at(0).unwrap_or(Timestamp(0))
    }

    /// The table's column behind a field, where the field is that column and nothing else.
    #[must_use]
    pub fn plain_column(&self, field: &str) -> Option<Arc<[Box<str>]>> {
        let field = self.fields.iter().find(|known| known.name == field)?;
        let shaped = field.noise.is_some() || field.outliers.is_some() || field.gaps.is_some();
        if shaped && !self.clean {
            return None;
        }
        self.table.as_ref()?.column(field.column.as_deref()?).ok()
    }

    /// The text of a constant field.
    #[must_use]
    pub fn constant(&self, field: &str) -> Option<String> {
        let field = self.fields.iter().find(|known| known.name == field)?;
        field.constant.as_ref().map(|value| match value {
            toml::Value::String(text) => text.clone(),
            other => other.to_string(),
        })
    }

    /// Whether a step may be left out: a gap is asked for, or no column has a value in some row.
    #[must_use]
    pub fn has_gaps(&self) -> bool {
        (!self.clean && self.fields.iter().any(|field| field.gaps.is_some()))
            || self.series(0).count() != self.steps()
    }

    /// Steps of one series, gaps included.
    #[must_use]
    pub fn steps(&self) -> usize {
        self.clock.len()
    }
}

#[cfg(test)]
mod tests;

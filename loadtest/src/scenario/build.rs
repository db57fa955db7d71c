//! From the file as written to stations that can run, and from a station to its generators.

use std::path::Path;
use std::sync::Arc;

use super::raw::{RawField, RawSpread, RawStation};
use super::{Spread, Station};
use crate::data::{ROWS_MAX, Table, Timestamp};
use crate::generate::{
    Clock, Column, Constant, Gaps, Generator, Join, Noise, Outliers, Series, Sine, Value, Walk,
    random,
};

const TOPIC: &str = "telemetry/{station}/{device}";
const DEVICES_MAX: usize = 1_000_000;

/// Names that the fleet itself puts into every message.
const TAKEN: [&str; 3] = ["station", "device", "time"];

/// A valid station, or `None` with the reasons added to `problems`.
pub(super) fn station(
    raw: RawStation,
    base: &Path,
    seed: u64,
    clean: bool,
    problems: &mut Vec<String>,
) -> Option<Station> {
    let before = problems.len();
    let place = format!("station {}", raw.name);
    let mut check = |good: bool, problem: &str| {
        if !good {
            problems.push(format!("{place}: {problem}"));
        }
    };
    check(
        is_name(&raw.name),
        "a name has letters, digits, `.`, `_` and `-` only",
    );
    let devices_fit = raw
        .devices
        .is_none_or(|count| (1..=DEVICES_MAX).contains(&count));
    check(devices_fit, "devices must be 1 to 1000000");
    let pace = raw.pace.unwrap_or(1.0);
    check(pace.is_finite() && pace > 0.0, "pace must be above 0");
    let topic = raw.topic.clone().unwrap_or_else(|| TOPIC.to_owned());
    let sample = topic.replace("{station}", "s").replace("{device}", "d");
    check(
        dunlin_protocol::topic::check_name(&sample).is_ok(),
        "the topic is no valid topic name",
    );
    check(!raw.field.is_empty(), "there is no [[station.field]]");
    let (clock, table) = match clock(&raw, base) {
        Ok((clock, table)) => (Some(clock), table),
        Err(problem) => {
            check(false, &problem);
            (None, None)
        }
    };
    for (index, known) in raw.field.iter().enumerate() {
        let twice = raw
            .field
            .iter()
            .take(index)
            .any(|other| other.name == known.name);
        check(
            !twice,
            &format!("field {}: the name is used twice", known.name),
        );
        if let Err(problem) = field(known, table.as_ref()) {
            check(false, &format!("field {}: {problem}", known.name));
        }
    }
    if problems.len() > before {
        return None;
    }
    Some(Station {
        name: raw.name,
        devices: raw.devices,
        spread: match raw.spread {
            Some(RawSpread::Replicate) => Spread::Replicate,
            Some(RawSpread::Partition) | None => Spread::Partition,
        },
        pace,
        topic,
        clock: clock?,
        table: table.map(Arc::new),
        fields: raw.field,
        seed,
        clean,
    })
}

fn clock(raw: &RawStation, base: &Path) -> Result<(Clock, Option<Table>), String> {
    match (
        &raw.table,
        &raw.time,
        &raw.start,
        raw.interval_ms,
        raw.count,
    ) {
        (Some(table), Some(time), None, None, None) => {
            let table = Table::open(table, base).map_err(|error| error.to_string())?;
            let times = table.times(time).map_err(|error| error.to_string())?;
            if times.is_sorted() {
                Ok((Clock::Rows(times), Some(table)))
            } else {
                Err(format!("the rows are not in the order of column {time}"))
            }
        }
        (None, None, start, Some(interval_ms), Some(count)) => {
            let start = match start {
                None => Timestamp(0),
                Some(text) => Timestamp::parse(text).ok_or_else(|| {
                    format!("start {text:?} is not a time (like 2026-01-01T00:00:00Z)")
                })?,
            };
            if !(1..=31_536_000_000).contains(&interval_ms) || count > ROWS_MAX {
                return Err(format!(
                    "interval_ms must be 1 to 31536000000 and count at most {ROWS_MAX}"
                ));
            }
            Ok((
                Clock::Every {
                    start,
                    interval_ms,
                    count,
                },
                None,
            ))
        }
        _ => Err("give either table and time, or interval_ms, count and perhaps start".to_owned()),
    }
}

fn field(raw: &RawField, table: Option<&Table>) -> Result<(), String> {
    if raw.name.is_empty() || TAKEN.contains(&raw.name.as_str()) {
        return Err(format!("the name is empty or one of {}", TAKEN.join(", ")));
    }
    let sources = [
        raw.column.is_some(),
        raw.constant.is_some(),
        raw.sine.is_some(),
        raw.walk.is_some(),
    ];
    if sources.iter().filter(|there| **there).count() != 1 {
        return Err("give exactly one of column, constant, sine, walk".to_owned());
    }
    if let Some(column) = &raw.column {
        let table = table.ok_or("a column needs a table")?;
        table.column(column).map_err(|error| error.to_string())?;
    }
    if raw
        .constant
        .as_ref()
        .is_some_and(|value| constant(value).is_none())
    {
        return Err("a constant is a string or a number".to_owned());
    }
    if raw
        .sine
        .as_ref()
        .is_some_and(|sine| sine.period_s <= 0.0 || !sine.period_s.is_finite())
    {
        return Err("period_s must be above 0".to_owned());
    }
    if raw
        .walk
        .as_ref()
        .is_some_and(|walk| !(walk.min <= walk.start && walk.start <= walk.max))
    {
        return Err("a walk needs min <= start <= max".to_owned());
    }
    if raw.decimals.is_some_and(|decimals| decimals > 15) {
        return Err("decimals must be at most 15".to_owned());
    }
    if raw
        .noise
        .is_some_and(|sigma| !(sigma >= 0.0 && sigma.is_finite()))
    {
        return Err("noise is a standard deviation: 0 or more".to_owned());
    }
    let probable = |probability: f64| (0.0..=1.0).contains(&probability);
    if raw
        .outliers
        .as_ref()
        .is_some_and(|outliers| !probable(outliers.probability))
        || raw
            .gaps
            .as_ref()
            .is_some_and(|gaps| !probable(gaps.probability))
    {
        return Err("a probability is 0 to 1".to_owned());
    }
    Ok(())
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 64
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

fn constant(value: &toml::Value) -> Option<Value> {
    match value {
        toml::Value::String(text) => Some(Value::Text(text.as_str().into())),
        toml::Value::Integer(number) => Some(Value::Exact(number.to_string().into())),
        toml::Value::Float(number) if number.is_finite() => {
            Some(Value::Exact(number.to_string().into()))
        }
        _ => None,
    }
}

/// The generators of a station, for one of its series.
pub(super) fn series(station: &Station, member: usize) -> Series {
    let mut join = Join::default();
    let mut constants = String::new();
    let measured = station.fields.iter().any(|field| field.constant.is_none());
    for field in &station.fields {
        match field.constant.as_ref().and_then(constant) {
            Some(value) if measured => {
                if !constants.is_empty() {
                    constants.push(',');
                }
                crate::generate::write_json_text(&field.name, &mut constants);
                constants.push(':');
                value.write_json(&mut constants);
            }
            Some(value) => join.add(&field.name, Constant(value)),
            None => join.add(&field.name, chain(station, field, member)),
        }
    }
    Series::new(station.clock.clone(), join, constants.into())
}

/// Source, then noise, then outliers, then gaps.
fn chain(station: &Station, field: &RawField, member: usize) -> Box<dyn Generator> {
    let random = |part: &str| {
        random(
            station.seed,
            &format!("{}/{member}/{}/{part}", station.name, field.name),
        )
    };
    let decimals = field.decimals.unwrap_or(1);
    let mut chain: Box<dyn Generator> = if let Some(walk) = &field.walk {
        Box::new(Walk {
            now: walk.start,
            step: walk.step,
            min: walk.min,
            max: walk.max,
            decimals,
            random: random("walk"),
        })
    } else if let Some(sine) = &field.sine {
        Box::new(Sine {
            mean: sine.mean,
            amplitude: sine.amplitude,
            period_s: sine.period_s,
            phase: sine.phase,
            decimals,
        })
    } else {
        let cells = station
            .table
            .as_ref()
            .zip(field.column.as_deref())
            .and_then(|(table, column)| table.column(column).ok());
        Box::new(Column(cells.unwrap_or_default()))
    };
    if station.clean {
        return chain;
    }
    if let Some(sigma) = field.noise {
        chain = match Noise::new(chain, sigma, random("noise")) {
            Some(noise) => Box::new(noise),
            None => return Box::new(Column([].into())), // the width was checked before
        };
    }
    if let Some(outliers) = &field.outliers {
        chain = Box::new(Outliers {
            inner: chain,
            probability: outliers.probability,
            size: outliers.size,
            random: random("outliers"),
        });
    }
    if let Some(gaps) = &field.gaps {
        chain = Box::new(Gaps::new(
            chain,
            gaps.probability,
            gaps.length,
            random("gaps"),
        ));
    }
    chain
}

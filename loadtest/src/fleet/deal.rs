//! Which device publishes which readings.
//!
//! A partitioned station's readings are dealt out in turns, first to the first device: the union over its
//! devices is the station's series, each reading once.

use std::sync::Arc;
use std::vec;

use super::schedule::{Schedule, Speed};
use crate::error::Error;
use crate::generate::{Reading, Series};
use crate::scenario::{Scenario, Spread, Station};

/// One device before it has a connection.
#[derive(Debug)]
pub(crate) struct Device {
    /// `seattle-007`.
    pub(crate) name: String,
    /// The number of its station in the scenario.
    pub(crate) station: usize,
    /// Where it publishes.
    pub(crate) topic: String,
    /// When its readings are due.
    pub(crate) schedule: Schedule,
    /// The beginning of every payload.
    head: Arc<str>,
    readings: Readings,
}

#[derive(Debug)]
enum Readings {
    Dealt(vec::IntoIter<Reading>),
    Own(Series),
}

impl Device {
    /// The next reading as time and JSON payload; `None` after the last.
    pub(crate) fn next_message(&mut self) -> Option<(crate::data::Timestamp, Box<[u8]>)> {
        let reading = match &mut self.readings {
            Readings::Dealt(readings) => readings.next(),
            Readings::Own(series) => series.next(),
        }?;
        let time = reading.at.to_text();
        let payload = format!("{}{time}\",{}}}", self.head, reading.fields);
        Some((reading.at, payload.into_bytes().into_boxed_slice()))
    }
}

/// All devices of a scenario, and how many messages they will publish (with gaps of their own: at most).
pub(crate) fn devices(
    scenario: &Scenario,
    count: usize,
    speed: Speed,
) -> Result<(Vec<Device>, u64), Error> {
    let mut devices = Vec::new();
    let mut messages = 0;
    for (number, (station, share)) in scenario
        .stations
        .iter()
        .zip(scenario.share_out(count)?)
        .enumerate()
    {
        let mut dealt: Vec<Vec<Reading>> = Vec::new();
        match station.spread {
            Spread::Partition => {
                dealt.resize_with(share, Vec::new);
                for (turn, reading) in station.series(0).enumerate() {
                    messages += 1;
                    dealt
                        .get_mut(turn % share)
                        .into_iter()
                        .for_each(|hand| hand.push(reading.clone()));
                }
            }
            Spread::Replicate => messages += (station.steps() * share) as u64,
        }
        let mut hands = dealt.into_iter();
        for member in 0..share {
            let readings = hands.next().map_or_else(
                || Readings::Own(station.series(member)),
                |hand| Readings::Dealt(hand.into_iter()),
            );
            devices.push(device(station, number, member, share, speed, readings));
        }
    }
    Ok((devices, messages))
}

fn device(
    station: &Station,
    number: usize,
    member: usize,
    share: usize,
    speed: Speed,
    readings: Readings,
) -> Device {
    let width = share.saturating_sub(1).to_string().len().max(3);
    let name = format!("{}-{member:0width$}", station.name);
    Device {
        topic: station
            .topic
            .replace("{station}", &station.name)
            .replace("{device}", &name),
        schedule: Schedule::new(station.begin(), station.pace, speed),
        // Names have no character that JSON would escape.
        head: format!(
            r#"{{"station":"{}","device":"{name}","time":""#,
            station.name
        )
        .into(),
        name,
        station: number,
        readings,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Overrides;

    #[test]
    fn every_row_is_published_by_exactly_one_device() {
        let scenario = Scenario::default_replay(Overrides::default()).unwrap();
        let (devices, count) = devices(&scenario, 100, Speed::AsFastAsPossible).unwrap();
        assert_eq!((devices.len(), count), (100, 8759 + 8759 + 1461));
        let mut times = std::collections::BTreeSet::new();
        for mut device in devices {
            let mut before = None;
            while let Some((at, payload)) = device.next_message() {
                assert!(before < Some(at), "a device's readings are in order");
                before = Some(at);
                assert!(times.insert((device.station, at)), "published twice");
                let json: serde_json::Value = serde_json::from_slice(&payload).unwrap();
                assert_eq!(json["device"], device.name.as_str());
            }
        }
        assert_eq!(times.len() as u64, count);
    }

    #[test]
    fn the_payload_is_the_documented_one() {
        let scenario = Scenario::default_replay(Overrides::default()).unwrap();
        let (mut devices, _) = devices(&scenario, 100, Speed::Times(1.0)).unwrap();
        let device = devices.get_mut(7).unwrap();
        assert_eq!(device.topic, "telemetry/seattle/seattle-007");
        let (_, payload) = device.next_message().unwrap();
        assert_eq!(
            String::from_utf8_lossy(&payload),
            r#"{"station":"seattle","device":"seattle-007","time":"2010-01-01T07:00:00Z","temperature":38.6,"unit":"F"}"#
        );
    }

    #[test]
    fn replicated_devices_have_series_of_their_own() {
        let text = include_str!("../../scenarios/synthetic.toml");
        let scenario =
            Scenario::parse("t", text, std::path::Path::new("."), Overrides::default()).unwrap();
        let (mut devices, count) = devices(&scenario, 2, Speed::Times(1.0)).unwrap();
        assert_eq!(count, 7200);
        let mut payloads = devices
            .iter_mut()
            .map(|device| device.next_message().unwrap().1);
        let tail = |payload: Box<[u8]>| {
            String::from_utf8_lossy(&payload)
                .split_once("time")
                .unwrap()
                .1
                .to_owned()
        };
        let (first, second) = (payloads.next().map(tail), payloads.next().map(tail));
        assert_ne!(first, second);
    }
}

//! Traces of messages on their way from the tap into the warehouse: those that their publisher has sampled (`traceparent`).
//!
//! A message is a span from the read that brought it to the acknowledgement that the tap has confirmed, with two parts: `append`, until its row is stored, and
//! `commit`, until the tap knows. What is not acknowledged when a partition is lost is whoever's who reads it again. Without a tracer nothing is looked at.

use std::collections::{BTreeMap, VecDeque};
use std::time::SystemTime;

use dunlin_protocol::Properties;
use dunlin_sync::cluster::tap::{Batch, Row};
use dunlin_telemetry::trace::{Carried, Context, KeyValue, Span, Tracer};

#[derive(Debug)]
struct Traced {
    position: u64,
    context: Context,
    attributes: Vec<KeyValue>,
    read_at: SystemTime,
    stored_at: Option<SystemTime>,
}

/// See the module. What is kept is bounded by what is read ahead.
#[derive(Debug, Default)]
pub(super) struct Traces {
    tracer: Option<Tracer>,
    partitions: BTreeMap<u16, VecDeque<Traced>>,
}

impl Traces {
    pub(super) fn new(tracer: Option<Tracer>) -> Self {
        let partitions = BTreeMap::new();
        Self { tracer, partitions }
    }

    pub(super) fn read(&mut self, batch: &Batch) {
        let Some(tracer) = &self.tracer else {
            return;
        };
        let read_at = SystemTime::now();
        let waiting = self.partitions.entry(batch.partition).or_default();
        for row in batch.rows() {
            let properties = Properties::from_validated(row.properties);
            let carried = Carried::of(properties.user_properties());
            if let Some(context) = tracer.sampled_before(carried) {
                waiting.push_back(Traced {
                    position: row.position,
                    context,
                    attributes: attributes(batch, &row),
                    read_at,
                    stored_at: None,
                });
            }
        }
    }

    /// The rows of what is below a position are stored.
    pub(super) fn stored(&mut self, partition: u16, upto: u64) {
        let Some(waiting) = self.partitions.get_mut(&partition) else {
            return;
        };
        let stored = waiting
            .iter_mut()
            .take_while(|traced| traced.position < upto);
        let mut now = None;
        for traced in stored.filter(|traced| traced.stored_at.is_none()) {
            traced.stored_at = Some(*now.get_or_insert_with(SystemTime::now));
        }
    }

    /// The tap has confirmed that what is below a position is done with.
    pub(super) fn acknowledged(&mut self, partition: u16, upto: u64) {
        let (Some(tracer), Some(waiting)) = (&self.tracer, self.partitions.get_mut(&partition))
        else {
            return;
        };
        while let Some(traced) = waiting.pop_front_if(|traced| traced.position < upto) {
            let now = SystemTime::now();
            let stored_at = traced.stored_at.unwrap_or(now);
            let span = Span {
                name: "store",
                times: (traced.read_at, now),
                attributes: traced.attributes,
                parts: vec![
                    ("append", traced.read_at, stored_at),
                    ("commit", stored_at, now),
                ],
            };
            tracer.finish(&traced.context, span);
        }
    }

    pub(super) fn lost(&mut self, partition: u16) {
        self.partitions.remove(&partition);
    }
}

fn attributes(batch: &Batch, row: &Row<'_>) -> Vec<KeyValue> {
    let (replica, number) = row.identity;
    let mut id = String::new();
    // Writing to a String cannot fail.
    crate::row::write_message_id(&mut id, replica.0, number).unwrap_or_default();
    let position = i64::try_from(row.position).unwrap_or(i64::MAX);
    let epoch = i64::try_from(batch.epoch).unwrap_or(i64::MAX);
    vec![
        KeyValue::new("messaging.system", "mqtt"),
        KeyValue::new("messaging.operation.name", "store"),
        KeyValue::new("messaging.destination.name", row.topic.to_owned()),
        KeyValue::new("messaging.message.id", id),
        KeyValue::new("dunlin.tap.partition", i64::from(batch.partition)),
        KeyValue::new("dunlin.tap.lease", epoch),
        KeyValue::new("dunlin.tap.position", position),
    ]
}

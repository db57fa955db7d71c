//! Traces of the messages that a client publishes.
//!
//! A traced publish is a span from the read that brought it to the moment from which its publisher may be told that it is safe, with two parts: `route`, until it is with
//! everybody who is served from memory, and `durable`, until queues, inboxes and taps in the store have it; from then on it is on its way to their readers.
//! A publish that needs nothing durable has the first part only. Of a connection that ends meanwhile nothing is sent.
//!
//! Without a tracer this costs one look at the hub for each publish.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dunlin_protocol::{Property, Publish};
use dunlin_telemetry::trace::{Carried, Context, KeyValue, Span, Tracer};

use super::packets::Batch;
use super::run::Connection;
use crate::hub::directory::Routes;

/// A publish that is traced.
pub(super) struct Traced {
    context: Context,
    attributes: Vec<KeyValue>,
    read_at: SystemTime,
    routed_at: Option<SystemTime>,
}

/// Those that wait until they are durable, by the number of their submission.
pub(super) type Waiting = VecDeque<(u64, Traced)>;

fn time(us: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_micros(us)
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

impl Traced {
    /// It is with everybody who is served from memory.
    fn routed(&mut self, routes: &Routes, now: SystemTime) {
        self.routed_at = Some(now);
        self.attributes.extend([
            KeyValue::new("dunlin.receivers.connected", count(routes.targets.len())),
            KeyValue::new("dunlin.receivers.queues", count(routes.stored.len())),
            KeyValue::new("dunlin.receivers.replicas", count(routes.replicas.len())),
            KeyValue::new("dunlin.receivers.groups", count(routes.groups.len())),
            KeyValue::new("dunlin.receivers.taps", count(routes.taps.len())),
        ]);
    }

    fn finish(self, tracer: &Tracer, durable: Option<SystemTime>) {
        let routed_at = self.routed_at.unwrap_or(self.read_at);
        let mut parts = vec![("route", self.read_at, routed_at)];
        parts.extend(durable.map(|at| ("durable", routed_at, at)));
        let span = Span {
            name: "publish",
            times: (self.read_at, durable.unwrap_or(routed_at)),
            attributes: self.attributes,
            parts,
        };
        tracer.finish(&self.context, span);
    }
}

impl Connection {
    /// Notes a publish that was taken, if it is to be traced.
    pub(super) fn trace(&self, publish: &Publish<'_>, topic: &str, batch: &mut Batch<'_>) {
        let Some(tracer) = &self.hub.tracer else {
            return;
        };
        let properties = publish
            .properties
            .iter()
            .filter_map(|property| match property {
                Property::UserProperty(name, value) => Some((name, value)),
                _ => None,
            });
        let Some(context) = tracer.of_message(Carried::of(properties)) else {
            return;
        };
        let client = self.session.client_id.to_string();
        batch.traced.push(Traced {
            context,
            attributes: vec![
                KeyValue::new("messaging.system", "mqtt"),
                KeyValue::new("messaging.operation.name", "publish"),
                KeyValue::new("messaging.destination.name", topic.to_owned()),
                KeyValue::new("messaging.client.id", client),
                KeyValue::new("messaging.message.body.size", count(publish.payload.len())),
                KeyValue::new("mqtt.qos", i64::from(publish.qos as u8)),
                KeyValue::new("mqtt.retain", publish.retain),
            ],
            read_at: time(batch.origin.received_at),
            routed_at: None,
        });
    }

    /// The run that they are in has been routed.
    pub(super) fn trace_routed(&self, traced: &mut [Traced], routes: &Routes) {
        let now = time(self.hub.clock.now_us());
        for traced in traced
            .iter_mut()
            .filter(|traced| traced.routed_at.is_none())
        {
            traced.routed(routes, now);
        }
    }

    /// They have been handed to the store under the newest number, or need nothing of it.
    pub(super) fn trace_submitted(&mut self, traced: Vec<Traced>, durable: bool) {
        let Some(tracer) = &self.hub.tracer else {
            return;
        };
        for traced in traced {
            match durable {
                true => {
                    let waiting = self.traced.get_or_insert_default();
                    waiting.push_back((self.submitted, traced));
                }
                false => traced.finish(tracer, None),
            }
        }
    }

    /// Sends those that are durable.
    pub(super) fn trace_committed(&mut self, committed: u64) {
        let (Some(tracer), Some(waiting)) = (&self.hub.tracer, &mut self.traced) else {
            return;
        };
        let now = time(self.hub.clock.now_us());
        while let Some((_, traced)) = waiting.pop_front_if(|(number, _)| *number <= committed) {
            traced.finish(tracer, Some(now));
        }
        if waiting.is_empty() {
            self.traced = None;
        }
    }
}

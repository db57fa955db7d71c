//! One measurement: one workload on one freshly started broker.

use std::time::Instant;

use serde::Serialize;

use super::broker::Broker;
use super::engine::{Engine, Failure};
use super::idle;
use super::plan::{Plan, Shape, Workload};
use crate::error::Error;
use crate::latency::{Latencies, Percentiles};
use crate::proc::Usage;

/// What one measurement found. Times and rates are of the measured part only; counts are of the whole.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outcome {
    /// The broker.
    pub broker: String,
    /// The workload.
    pub workload: Workload,
    /// Seconds that were measured.
    pub seconds: f64,
    /// Messages delivered while measuring.
    pub delivered: u64,
    /// Per second.
    pub delivered_per_s: f64,
    /// CPU time of the broker per delivered message (idle: per connect), in microseconds.
    pub cpu_us: Option<f64>,
    /// CPU time of the load generator per delivered message (idle: per connect), in microseconds.
    pub own_cpu_us: f64,
    /// What the broker used while measuring, and its memory at the end.
    pub broker_usage: Option<Usage>,
    /// Idle only: memory of the broker per connection in bytes, by anonymous, proportional and resident size.
    pub bytes_per_connection: Option<Memory>,
    /// Of what was delivered while measuring.
    pub latency: Percentiles,
    /// Messages sent in the whole run.
    pub sent: u64,
    /// Deliveries that never came.
    pub lost: u64,
    /// Deliveries that came again.
    pub duplicated: u64,
    /// Deliveries that came late.
    pub reordered: u64,
    /// QoS 0: how often nothing came for half a second, and what was missing was given up.
    pub stalls: u64,
}

/// Memory per connection, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Memory {
    /// Of no file.
    pub anonymous: f64,
    /// With shared pages divided.
    pub pss: f64,
    /// Resident.
    pub rss: f64,
}

/// Measures a workload on a broker.
pub(crate) fn measure(
    broker: &Broker,
    name: &str,
    workload: Workload,
    plan: &Plan,
) -> Result<Outcome, Error> {
    let result = match workload.shape {
        Shape::Idle => idle::measure(broker, name, workload, plan),
        _ => steady(broker, name, workload, plan),
    };
    result.map_err(|problem| match problem {
        Problem::Engine(failure) => Error::Bench {
            workload: workload.name(),
            broker: name.to_owned(),
            problem: failure.to_string(),
        },
        Problem::Other(error) => error,
    })
}

/// Either kind of trouble in a measurement.
pub(super) enum Problem {
    Engine(Failure),
    Other(Error),
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        Self::Engine(failure)
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

fn steady(
    broker: &Broker,
    name: &str,
    workload: Workload,
    plan: &Plan,
) -> Result<Outcome, Problem> {
    let mut engine = Engine::new(broker.address, workload, workload.qos()?, plan)?;
    engine.set_up()?;
    engine.start();
    engine.work_until(Instant::now() + plan.warm_up)?;

    let before = engine.totals();
    let (usage, own) = (usage(broker)?, Usage::of_self()?);
    engine.latencies = Some(Latencies::default());
    let begin = Instant::now();
    engine.work_until(begin + plan.measure)?;
    let seconds = begin.elapsed().as_secs_f64();
    let (usage, own) = (since(broker, usage)?, Usage::of_self()?.since(own));
    let latencies = engine.latencies.take().unwrap_or_default();
    let delivered = engine.totals().delivered - before.delivered;

    engine.stop();
    engine.drain(plan.drain)?;
    let (lost, duplicated, reordered) = engine.verdict();
    let totals = engine.totals();
    engine.close()?;
    let each = |cpu_ns: u64| cpu_ns as f64 / 1000.0 / (delivered.max(1) as f64);
    Ok(Outcome {
        broker: name.to_owned(),
        workload,
        seconds,
        delivered,
        delivered_per_s: delivered as f64 / seconds,
        cpu_us: usage.map(|usage| each(usage.cpu_ns)),
        own_cpu_us: each(own.cpu_ns),
        broker_usage: usage,
        bytes_per_connection: None,
        latency: latencies.percentiles(),
        sent: totals.sent,
        lost,
        duplicated,
        reordered,
        stalls: totals.stalls,
    })
}

/// What the broker used so far, where its process is known.
pub(super) fn usage(broker: &Broker) -> Result<Option<Usage>, Error> {
    broker.pid.map(Usage::read).transpose()
}

pub(super) fn since(broker: &Broker, earlier: Option<Usage>) -> Result<Option<Usage>, Error> {
    Ok(usage(broker)?
        .zip(earlier)
        .map(|(now, earlier)| now.since(earlier)))
}

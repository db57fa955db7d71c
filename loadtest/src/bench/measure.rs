//! One measurement: one workload on one freshly started system.

use std::time::Instant;

use serde::Serialize;

use super::engine::{Engine, Failure};
use super::idle;
use super::plan::{Plan, Shape, Workload};
use super::system::{System, Usages, sum};
use crate::error::Error;
use crate::latency::{Latencies, Percentiles};
use crate::proc::{MachineTime, Usage};

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
    /// CPU time of all processes of the broker per delivered message (idle: per connect), in microseconds.
    pub cpu_us: Option<f64>,
    /// The same by role, in the order of the processes; empty where no process is known.
    pub roles: Vec<RoleCost>,
    /// CPU time of the load generator per delivered message (idle: per connect), in microseconds.
    pub own_cpu_us: f64,
    /// What the broker used while measuring, and its memory at the end; all its processes together.
    pub broker_usage: Option<Usage>,
    /// The part of all processors' time, from 0 to 1, that neither the broker nor the load generator used but
    /// somebody else: above a few hundredths, latency and throughput are not the broker's.
    pub others: Option<f64>,
    /// Idle only: memory of the broker per connection in bytes, by anonymous, proportional and resident size.
    pub bytes_per_connection: Option<Memory>,
    /// Of what was delivered while measuring, from when it was due.
    pub latency: Percentiles,
    /// QoS 1 and 2: from when a message was due until its PUBACK or PUBREC.
    pub ack_latency: Percentiles,
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

/// What the processes of one role cost.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RoleCost {
    /// The role.
    pub role: String,
    /// CPU time per delivered message (idle: per connect), in microseconds.
    pub cpu_us: f64,
    /// What they used while measuring, and their memory at the end.
    pub usage: Usage,
}

impl RoleCost {
    /// Of so many messages, at least one.
    pub(super) fn all(usages: Usages, messages: u64) -> Vec<Self> {
        let each = |usage: Usage| usage.cpu_ns as f64 / 1000.0 / (messages.max(1) as f64);
        usages
            .into_iter()
            .map(|(role, usage)| Self {
                role,
                cpu_us: each(usage),
                usage,
            })
            .collect()
    }
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

/// Measures a workload on a system.
pub(crate) fn measure(
    system: &System,
    name: &str,
    workload: Workload,
    plan: &Plan,
) -> Result<Outcome, Error> {
    let result = match workload.shape {
        Shape::Idle => idle::measure(system, name, workload, plan),
        _ => steady(system, name, workload, plan),
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
    system: &System,
    name: &str,
    workload: Workload,
    plan: &Plan,
) -> Result<Outcome, Problem> {
    let mut engine = Engine::new(&system.addresses, workload, workload.qos()?, plan)?;
    engine.set_up()?;
    engine.start();
    engine.work_until(Instant::now() + plan.warm_up)?;

    let before = engine.totals();
    let (usages, own) = (system.usages()?, Usage::of_self()?);
    engine.latencies = Some(Latencies::default());
    engine.ack_latencies = Some(Latencies::default());
    let machine = MachineTime::read();
    let begin = Instant::now();
    engine.work_until(begin + plan.measure)?;
    let seconds = begin.elapsed().as_secs_f64();
    let machine = (MachineTime::read(), machine);
    let (usages, own) = (system.since(&usages)?, Usage::of_self()?.since(own));
    let latencies = engine.latencies.take().unwrap_or_default();
    let ack_latencies = engine.ack_latencies.take().unwrap_or_default();
    let delivered = engine.totals().delivered - before.delivered;

    engine.stop();
    engine.drain(plan.drain)?;
    let (lost, duplicated, reordered) = engine.verdict();
    let totals = engine.totals();
    engine.close()?;
    let usage = sum(&usages);
    let others = usage.map(|usage| {
        let (now, then) = machine;
        now.others_since(then, usage.cpu_ns + own.cpu_ns)
    });
    let each = |cpu_ns: u64| cpu_ns as f64 / 1000.0 / (delivered.max(1) as f64);
    Ok(Outcome {
        broker: name.to_owned(),
        workload,
        seconds,
        delivered,
        delivered_per_s: delivered as f64 / seconds,
        cpu_us: usage.map(|usage| each(usage.cpu_ns)),
        roles: RoleCost::all(usages, delivered),
        own_cpu_us: each(own.cpu_ns),
        broker_usage: usage,
        others,
        bytes_per_connection: None,
        latency: latencies.percentiles(),
        ack_latency: ack_latencies.percentiles(),
        sent: totals.sent,
        lost,
        duplicated,
        reordered,
        stalls: totals.stalls,
    })
}

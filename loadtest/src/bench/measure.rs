//! One measurement: one workload on one freshly started system.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::engine::{Engine, Failure};
use super::plan::{Plan, Shape, Workload};
use super::system::{System, Usages, sum};
use super::{idle, stored};
use crate::error::Error;
use crate::latency::{Latencies, Percentiles};
use crate::proc::{MachineTime, Usage};

/// What one measurement found. Times and rates are of the measured part only; counts are of the whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
    /// By how many bytes the broker's memory that is no file's grew from before the first connection to the end, where
    /// messages flow.
    #[serde(default)]
    pub grown: Option<f64>,
    /// Memory of the broker per idle connection or stored retained message, in bytes.
    pub bytes_each: Option<Memory>,
    /// Of what was delivered while measuring, from when it was due.
    pub latency: Percentiles,
    /// QoS 1 and 2: from when a message was due until its PUBACK or PUBREC.
    pub ack_latency: Percentiles,
    /// Parts of a hundred, and the microseconds that so many deliveries took at most.
    pub latency_curve: Vec<(f64, f64)>,
    /// The same of acknowledgements.
    pub ack_latency_curve: Vec<(f64, f64)>,
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

impl Outcome {
    /// Of so many messages (or connections) in some time, for which the load generator used `own`.
    pub(super) fn new(
        broker: &str,
        workload: Workload,
        seconds: f64,
        delivered: u64,
        own: Usage,
    ) -> Self {
        Self {
            broker: broker.to_owned(),
            workload,
            seconds,
            delivered,
            delivered_per_s: delivered as f64 / seconds.max(1e-9),
            cpu_us: None,
            roles: Vec::new(),
            own_cpu_us: each(own.cpu_ns, delivered),
            broker_usage: None,
            others: None,
            grown: None,
            bytes_each: None,
            latency: Percentiles::default(),
            ack_latency: Percentiles::default(),
            latency_curve: Vec::new(),
            ack_latency_curve: Vec::new(),
            sent: 0,
            lost: 0,
            duplicated: 0,
            reordered: 0,
            stalls: 0,
        }
    }

    /// What the broker used for them, by role.
    pub(super) fn set_usage(&mut self, usages: Usages) {
        self.broker_usage = sum(&usages);
        self.cpu_us = self
            .broker_usage
            .map(|usage| each(usage.cpu_ns, self.delivered));
        self.roles = RoleCost::all(usages, self.delivered);
    }

    pub(super) fn set_latencies(&mut self, delivery: &Latencies, ack: &Latencies) {
        self.latency = delivery.percentiles();
        self.latency_curve = delivery.curve();
        self.ack_latency = ack.percentiles();
        self.ack_latency_curve = ack.curve();
    }
}

/// Microseconds of each of so many, at least one.
fn each(cpu_ns: u64, count: u64) -> f64 {
    cpu_ns as f64 / 1000.0 / (count.max(1) as f64)
}

impl Memory {
    /// By how much it grew for each of so many.
    pub(super) fn grown(now: Usage, then: Usage, count: usize) -> Self {
        let each = |now: u64, then: u64| (now as f64 - then as f64) / count.max(1) as f64;
        Self {
            anonymous: each(now.anonymous, then.anonymous),
            pss: each(now.pss, then.pss),
            rss: each(now.rss, then.rss),
        }
    }
}

/// What the processes of one role cost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
        usages
            .into_iter()
            .map(|(role, usage)| Self {
                role,
                cpu_us: each(usage.cpu_ns, messages),
                usage,
            })
            .collect()
    }
}

/// Memory per connection or message, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
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
        Shape::RetainStore | Shape::Sessions => stored::store(system, name, workload, plan),
        Shape::Queue => stored::queue(system, name, workload, plan),
        Shape::Subscriptions => stored::subscriptions(system, name, workload, plan),
        Shape::RetainRead => stored::read(system, name, workload, plan),
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
    let first = sum(&system.usages()?);
    let _held = stored::stand(system, workload, plan)?;
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
    let mut outcome = Outcome::new(name, workload, seconds, delivered, own);
    outcome.set_usage(usages);
    outcome.others = outcome.broker_usage.map(|usage| {
        let (now, then) = machine;
        now.others_since(then, usage.cpu_ns + own.cpu_ns)
    });
    outcome.grown = first
        .zip(outcome.broker_usage)
        .map(|(then, now)| now.anonymous as f64 - then.anonymous as f64);
    outcome.set_latencies(&latencies, &ack_latencies);
    outcome.sent = totals.sent;
    outcome.lost = lost;
    outcome.duplicated = duplicated;
    outcome.reordered = reordered;
    outcome.stalls = totals.stalls;
    Ok(outcome)
}

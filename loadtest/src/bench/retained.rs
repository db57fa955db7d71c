//! Retained messages: what storing one costs, what it takes of memory, and what reading it costs.

use std::time::Instant;

use super::engine::{Engine, Totals};
use super::measure::{Memory, Outcome, Problem};
use super::plan::{Plan, Shape, Workload};
use super::system::{System, sum};
use crate::latency::Latencies;
use crate::proc::Usage;

/// Subscribers that read everything, one after the other.
const READERS: u64 = 5;

pub(super) fn store(
    system: &System,
    name: &str,
    workload: Workload,
    plan: &Plan,
) -> Result<Outcome, Problem> {
    let mut engine = Engine::new(&system.addresses, workload, workload.qos()?, plan)?;
    engine.set_up()?;
    engine.ack_latencies = Some(Latencies::default());
    let (before, own) = (system.usages()?, Usage::of_self()?);
    let begin = Instant::now();
    engine.start();
    engine.send_all(plan.drain)?;
    let seconds = begin.elapsed().as_secs_f64();
    let by_role = system.since(&before)?;
    let own = Usage::of_self()?.since(own);
    let latencies = engine.ack_latencies.take().unwrap_or_default();
    let Totals {
        sent, delivered, ..
    } = engine.totals();
    engine.close()?;
    let then = sum(&before);
    let now = sum(&by_role);
    // At QoS 0 nothing is acknowledged; a PINGRESP has said that all was read.
    let stored = if workload.qos == 0 { sent } else { delivered };
    let mut outcome = Outcome::new(name, workload, seconds, stored, own);
    outcome.set_usage(by_role);
    outcome.bytes_each = then
        .zip(now)
        .map(|(then, now)| Memory::grown(now, then, workload.clients));
    outcome.set_latencies(&Latencies::default(), &latencies);
    outcome.sent = sent;
    outcome.lost = (workload.clients as u64).saturating_sub(stored);
    Ok(outcome)
}

pub(super) fn read(
    system: &System,
    name: &str,
    workload: Workload,
    plan: &Plan,
) -> Result<Outcome, Problem> {
    // At QoS 1, so that all are there.
    let stored = Workload {
        shape: Shape::RetainStore,
        qos: 1,
        ..workload
    };
    let mut writers = Engine::new(&system.addresses, stored, stored.qos()?, plan)?;
    writers.set_up()?;
    writers.start();
    writers.send_all(plan.drain)?;
    writers.close()?;

    let (before, own) = (system.usages()?, Usage::of_self()?);
    let begin = Instant::now();
    let mut latencies = Latencies::default();
    let (mut delivered, mut lost, mut repeated) = (0, 0, 0);
    for _ in 0..READERS {
        let mut reader = Engine::new(&system.addresses, workload, workload.qos()?, plan)?;
        reader.latencies = Some(latencies);
        reader.set_up()?;
        reader.read_all(plan.drain)?;
        let (missing, again, _) = reader.verdict();
        delivered += reader.totals().delivered;
        lost += missing;
        repeated += again;
        latencies = reader.latencies.take().unwrap_or_default();
        reader.close()?;
    }
    let seconds = begin.elapsed().as_secs_f64();
    let by_role = system.since(&before)?;
    let own = Usage::of_self()?.since(own);
    let mut outcome = Outcome::new(name, workload, seconds, delivered, own);
    outcome.set_usage(by_role);
    outcome.set_latencies(&latencies, &Latencies::default());
    outcome.sent = workload.clients as u64 * READERS;
    (outcome.lost, outcome.duplicated) = (lost, repeated);
    Ok(outcome)
}

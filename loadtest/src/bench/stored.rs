//! What a broker keeps: retained messages, sessions, queued messages, subscriptions. What one costs to store, what it takes of
//! memory, and of retained messages what reading one costs.

use std::time::Instant;

use super::engine::{Engine, Failure, Totals};
use super::measure::{Memory, Outcome, Problem};
use super::plan::{Plan, RETAINERS, Shape, Workload};
use super::system::{System, Usages, sum};
use crate::latency::Latencies;
use crate::proc::Usage;

/// Subscribers that read everything, one after the other.
const READERS: u64 = 5;

/// Before something is stored.
struct Before {
    usages: Usages,
    own: Usage,
    begin: Instant,
}

impl Before {
    fn now(system: &System) -> Result<Self, Problem> {
        Ok(Self {
            usages: system.usages()?,
            own: Usage::of_self()?,
            begin: Instant::now(),
        })
    }

    /// So many are stored by now.
    fn outcome(
        &self,
        system: &System,
        name: &str,
        workload: Workload,
        stored: u64,
    ) -> Result<Outcome, Problem> {
        let seconds = self.begin.elapsed().as_secs_f64();
        let by_role = system.since(&self.usages)?;
        let own = Usage::of_self()?.since(self.own);
        let (then, now) = (sum(&self.usages), sum(&by_role));
        let mut outcome = Outcome::new(name, workload, seconds, stored, own);
        outcome.set_usage(by_role);
        outcome.bytes_each = then
            .zip(now)
            .map(|(then, now)| Memory::grown(now, then, workload.clients));
        outcome.lost = (workload.clients as u64).saturating_sub(stored);
        Ok(outcome)
    }
}

/// Retained messages, or sessions.
pub(super) fn store(
    system: &System,
    name: &str,
    workload: Workload,
    plan: &Plan,
) -> Result<Outcome, Problem> {
    let mut engine = Engine::new(&system.addresses, workload, workload.qos()?, plan)?;
    engine.set_up()?;
    engine.latencies = Some(Latencies::default());
    engine.ack_latencies = Some(Latencies::default());
    let before = Before::now(system)?;
    engine.start();
    engine.send_all(plan.drain)?;
    let Totals {
        sent, delivered, ..
    } = engine.totals();
    // At QoS 0 no message is acknowledged; a PINGRESP has said that all were read.
    let answered = workload.qos > 0 || workload.is_of_visits();
    let stored = if answered { delivered } else { sent };
    let mut outcome = before.outcome(system, name, workload, stored)?;
    outcome.sent = sent;
    let latencies = engine.latencies.take().unwrap_or_default();
    let ack_latencies = engine.ack_latencies.take().unwrap_or_default();
    if workload.is_of_visits() {
        outcome.set_latencies(&latencies, &Latencies::default());
        // Whoever has left is forgotten by then.
        engine.work_until(Instant::now() + plan.warm_up)?;
        let settled = before.outcome(system, name, workload, stored)?;
        outcome.bytes_each = settled.bytes_each;
    } else {
        outcome.set_latencies(&Latencies::default(), &ack_latencies);
    }
    engine.close()?;
    Ok(outcome)
}

/// Messages for sessions whose clients are away.
pub(super) fn queue(
    system: &System,
    name: &str,
    workload: Workload,
    plan: &Plan,
) -> Result<Outcome, Problem> {
    let away = Workload {
        shape: Shape::Sessions,
        clients: RETAINERS,
        ..workload
    };
    let mut makers = Engine::new(&system.addresses, away, away.qos()?, plan)?;
    makers.set_up()?;
    makers.start();
    makers.send_all(plan.drain)?;
    makers.work_until(Instant::now() + plan.warm_up)?;
    let (missing, _, _) = makers.verdict();
    if missing > 0 {
        let problem = format!("{missing} sessions could not be made");
        return Err(Failure::Protocol(problem).into());
    }
    store(system, name, workload, plan)
}

/// Subscriptions, held by few connections.
pub(super) fn subscriptions(
    system: &System,
    name: &str,
    workload: Workload,
    plan: &Plan,
) -> Result<Outcome, Problem> {
    let mut engine = Engine::new(&system.addresses, workload, workload.qos()?, plan)?;
    engine.set_up()?;
    let before = Before::now(system)?;
    let held = engine.hold_all(plan.drain)? as u64;
    let mut outcome = before.outcome(system, name, workload, held)?;
    outcome.sent = workload.clients as u64;
    engine.close()?;
    Ok(outcome)
}

/// The subscriptions of others that stand beside a workload, as long as the value lives.
pub(super) fn stand(
    system: &System,
    workload: Workload,
    plan: &Plan,
) -> Result<Option<Engine>, Problem> {
    if workload.standing == 0 {
        return Ok(None);
    }
    let others = Workload {
        filters: workload.filters,
        ..Workload::new(Shape::Subscriptions, workload.standing, workload.qos)
    };
    let mut engine = Engine::new(&system.addresses, others, others.qos()?, plan)?;
    engine.set_up()?;
    let held = engine.hold_all(plan.drain)?;
    if held < workload.standing {
        let problem = format!("{held} of {} subscriptions were made", workload.standing);
        return Err(Failure::Protocol(problem).into());
    }
    Ok(Some(engine))
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

    let before = Before::now(system)?;
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
    let mut outcome = before.outcome(system, name, workload, delivered)?;
    outcome.bytes_each = None;
    outcome.set_latencies(&latencies, &Latencies::default());
    outcome.sent = workload.clients as u64 * READERS;
    (outcome.lost, outcome.duplicated) = (lost, repeated);
    Ok(outcome)
}

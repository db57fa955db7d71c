//! Connections that do nothing: what each costs in memory, and what connecting costs in CPU time.

use std::time::Instant;

use super::engine::Engine;
use super::measure::{Memory, Outcome, Problem};
use super::plan::{Plan, Workload};
use super::system::{System, sum};
use crate::proc::Usage;

pub(super) fn measure(
    system: &System,
    name: &str,
    workload: Workload,
    plan: &Plan,
) -> Result<Outcome, Problem> {
    // One connection first: what a broker sets up once is not counted to the connections.
    let mut first = Engine::new(
        &system.addresses,
        Workload {
            clients: 1,
            ..workload
        },
        workload.qos()?,
        plan,
    )?;
    first.set_up()?;
    first.work_until(Instant::now() + plan.warm_up)?;
    first.close()?;

    let mut engine = Engine::new(&system.addresses, workload, workload.qos()?, plan)?;
    let (before, own) = (system.usages()?, Usage::of_self()?);
    let begin = Instant::now();
    engine.set_up()?;
    let seconds = begin.elapsed().as_secs_f64();
    let by_role = system.since(&before)?;
    let (used, before) = (sum(&by_role), sum(&before));
    let own = Usage::of_self()?.since(own);
    // Buffers of the handshake are given back by then, by a broker that gives them back.
    engine.work_until(Instant::now() + plan.measure)?;
    let after = sum(&system.usages()?);
    engine.close()?;

    let mut outcome = Outcome::new(name, workload, seconds, workload.clients as u64, own);
    outcome.set_usage(by_role);
    outcome.bytes_each = before
        .zip(after)
        .map(|(then, now)| Memory::grown(now, then, workload.clients));
    outcome.broker_usage = used.zip(after).map(|(used, after)| Usage {
        rss: after.rss,
        pss: after.pss,
        anonymous: after.anonymous,
        ..used
    });
    // Nothing was delivered.
    (outcome.delivered, outcome.delivered_per_s) = (0, 0.0);
    Ok(outcome)
}

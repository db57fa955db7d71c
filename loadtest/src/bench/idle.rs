//! Connections that do nothing: what each costs in memory, and what connecting costs in CPU time.

use std::time::Instant;

use super::engine::Engine;
use super::measure::{Memory, Outcome, Problem, RoleCost};
use super::plan::{Plan, Workload};
use super::system::{System, sum};
use crate::latency::Percentiles;
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

    let clients = workload.clients as f64;
    let grown = |now: u64, then: u64| (now as f64 - then as f64) / clients;
    Ok(Outcome {
        broker: name.to_owned(),
        workload,
        seconds,
        delivered: 0,
        delivered_per_s: 0.0,
        cpu_us: used.map(|used| used.cpu_ns as f64 / 1000.0 / clients),
        roles: RoleCost::all(by_role, workload.clients as u64),
        own_cpu_us: own.cpu_ns as f64 / 1000.0 / clients,
        bytes_per_connection: before.zip(after).map(|(then, now)| Memory {
            anonymous: grown(now.anonymous, then.anonymous),
            pss: grown(now.pss, then.pss),
            rss: grown(now.rss, then.rss),
        }),
        broker_usage: used.zip(after).map(|(used, after)| Usage {
            rss: after.rss,
            pss: after.pss,
            anonymous: after.anonymous,
            ..used
        }),
        others: None,
        latency: Percentiles::default(),
        ack_latency: Percentiles::default(),
        sent: 0,
        lost: 0,
        duplicated: 0,
        reordered: 0,
        stalls: 0,
    })
}

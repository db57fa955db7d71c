//! A run: every workload on every broker, alternating, so that what the machine does besides falls on all.

use super::machine::Machine;
use super::measure::{Outcome, measure};
use super::plan::{Plan, Workload};
use super::processor::pin_this_thread;
use super::report::Report;
use super::system::Target;
use crate::error::Error;
use crate::limits::require_sockets;

/// Files that the process has open beside its connections.
const OTHER_FILES: u64 = 64;

/// How far a run is.
#[derive(Debug, Clone, Copy)]
pub struct Step<'a> {
    /// Number of the measurement, from 1.
    pub number: usize,
    /// Measurements in all.
    pub total: usize,
    /// What is measured.
    pub workload: &'a Workload,
    /// Where.
    pub broker: &'a str,
    /// What came out; `None` before.
    pub outcome: Option<&'a Outcome>,
}

/// Measures; `progress` is told before each measurement what comes, and after it what came out.
///
/// # Errors
/// When a broker does not start, a connection breaks, or the plan makes no sense. Whether the counts are
/// right is [`Report::check_counts`]'s to say.
pub fn run(
    plan: &Plan,
    targets: &[Target],
    mut progress: impl FnMut(Step<'_>),
) -> Result<Report, Error> {
    plan.check()?;
    require_sockets(plan.sockets() + OTHER_FILES)?;
    let machine = Machine::look();
    let versions = targets
        .iter()
        .map(|target| (target.name().to_owned(), target.version()))
        .collect();
    if let Some((_, own)) = plan.pinned {
        pin_this_thread(own).map_err(|source| Error::Io {
            what: format!("cannot run on processor {own}"),
            source,
        })?;
    }
    let mut outcomes = Vec::new();
    let each = plan.workloads.iter().map(|workload| {
        let measured = targets
            .iter()
            .filter(|target| plan.measures(workload, target.name()));
        measured.count()
    });
    let total = plan.runs * each.sum::<usize>();
    for _ in 0..plan.runs {
        for workload in &plan.workloads {
            for target in targets {
                let name = target.name();
                if !plan.measures(workload, name) {
                    continue;
                }
                let step = Step {
                    number: outcomes.len() + 1,
                    total,
                    workload,
                    broker: name,
                    outcome: None,
                };
                progress(step);
                let system = target.start(plan.pinned.map(|(broker, _)| broker))?;
                let outcome = measure(&system, name, *workload, plan)?;
                progress(Step {
                    outcome: Some(&outcome),
                    ..step
                });
                outcomes.push(outcome);
            }
        }
    }
    Ok(Report::new(plan, machine, versions, outcomes))
}

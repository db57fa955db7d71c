//! Batches that are kept when others are given up.

use super::super::shared::Pending;
use super::{Needs, Staged};
use crate::{Batch, Op, StoreError};

/// With what a batch can be sent again.
pub(in super::super) struct Again {
    pub(super) ops: Vec<Op>,
    /// Number of the last append before its own.
    pub(super) numbered: u64,
}

impl Pending {
    /// Whether it is to be written: what was kept may have lost its submitter.
    pub(in super::super) fn is_wanted(&self) -> bool {
        let told = self.batch.on_commit.as_ref();
        !self.kept || told.is_none_or(|told| told.is_wanted())
    }
}

/// Why what nobody waits for fails.
pub(in super::super) fn unwanted() -> StoreError {
    StoreError::Cluster {
        reason: "nobody waits for it any more".to_owned(),
    }
}

impl Staged {
    /// A batch that has failed before anything was made of it.
    pub(in super::super) fn failed(pending: Pending, error: &StoreError) -> Self {
        Self {
            ticket: pending.ticket,
            weight: pending.weight,
            on_commit: pending.batch.on_commit,
            appended: Vec::new(),
            result: Err(error.clone()),
            barrier: false,
            needs: Needs::default(),
            after: Vec::new(),
            again: None,
        }
    }

    /// The batch as it was handed in, if it is to be kept: nothing is left of it here then.
    pub(in super::super) fn keep(&mut self) -> Option<Pending> {
        let Again { mut ops, numbered } = self.again.take_if(|_| self.result.is_ok())?;
        // What found no inbox is on its way to another member.
        let gone = &self.needs.redeliveries;
        ops.retain(|op| match op {
            Op::Relay { to, share, .. } => {
                share.is_none() || gone.iter().all(|(replica, _)| replica != to)
            }
            _ => true,
        });
        Some(Pending {
            ticket: self.ticket,
            weight: self.weight,
            batch: Batch {
                ops,
                on_commit: self.on_commit.take(),
                barrier: self.barrier,
                keep: true,
            },
            kept: true,
            numbered: Some(numbered),
        })
    }
}

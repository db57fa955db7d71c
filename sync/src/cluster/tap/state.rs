//! A look at a whole tap from outside, for people.

use std::time::Duration;

use super::rows::batches;
use super::{
    Definition, DefinitionError, TapLevel, TapPartition, TapReply, TapRequest, definition, known,
};
use crate::cluster::{Backplane, BackplaneError, Reply, Request};

/// A tap at a moment. Its partitions were looked at one after the other.
#[derive(Clone, Debug)]
pub struct TapState {
    /// What it is.
    pub definition: Definition,
    /// Numbers of the consumers that share it, ascending.
    pub consumers: Vec<u64>,
    /// Its partitions, ascending.
    pub partitions: Vec<PartitionState>,
}

/// A partition at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionState {
    /// Which.
    pub partition: u16,
    /// Whose it is; `None`: nobody's, or its lease has ended.
    pub consumer: Option<u64>,
    /// Number of its last lease; rises with each change of hands.
    pub epoch: u64,
    /// How long the lease still lasts.
    pub lease_left: Duration,
    /// What there is.
    pub level: TapLevel,
    /// When the oldest message that is not acknowledged was accepted: Unix time in microseconds.
    pub oldest_at: Option<u64>,
}

/// The tap of this name as it is; `None`: there is none. Changes nothing, and needs no lease. Cancel safe.
///
/// # Errors
///
/// Redis refuses, or what is there cannot be read.
pub async fn look(
    backplane: &dyn Backplane,
    name: &str,
) -> Result<Option<TapState>, DefinitionError> {
    let Some(definition) = known(backplane, name).await? else {
        return Ok(None);
    };
    // Nobody, who leaves: only the answer counts.
    let members = TapRequest::Member {
        tap: definition.name.clone(),
        consumer: 0,
        lease_ms: 0,
    };
    let consumers = match definition::ask(backplane, Request::Tap(members)).await? {
        Reply::Tap(TapReply::Members(members)) => members,
        reply => return Err(DefinitionError::Damaged(format!("{reply:.60?}"))),
    };
    let requests = (0..definition.partitions).map(|partition| {
        Request::Tap(TapRequest::Look {
            of: TapPartition {
                tap: definition.name.clone(),
                partition,
            },
        })
    });
    let answers = backplane.execute(requests.collect()).await;
    if answers.len() < usize::from(definition.partitions) {
        return Err(DefinitionError::Refused(BackplaneError::Closed));
    }
    let mut partitions = Vec::with_capacity(answers.len());
    for (answer, partition) in answers.into_iter().zip(0..) {
        partitions.push(seen(partition, answer.map_err(DefinitionError::Refused)?)?);
    }
    Ok(Some(TapState {
        definition,
        consumers,
        partitions,
    }))
}

fn seen(partition: u16, reply: Reply) -> Result<PartitionState, DefinitionError> {
    let Reply::Tap(TapReply::Seen {
        consumer,
        epoch,
        left_ms,
        level,
        first,
    }) = reply
    else {
        return Err(DefinitionError::Damaged(format!("{reply:.60?}")));
    };
    let from = level.acknowledged;
    let batches = batches((partition, epoch), from, first.into_iter().collect());
    let oldest_at = batches
        .first()
        .and_then(|batch| batch.rows().next().map(|row| row.received_at));
    Ok(PartitionState {
        partition,
        consumer: (consumer != 0).then_some(consumer),
        epoch,
        lease_left: Duration::from_millis(left_ms),
        level,
        oldest_at,
    })
}

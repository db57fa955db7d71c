//! Changes of records as a part of a batch.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::{
    Put, PutOutcome, RECORD_BYTES_AT_ONCE, RECORD_KEY_MAX, RECORD_VALUE_MAX, RECORDS_AT_ONCE,
    RecordKey, RecordPut,
};
use crate::{Appended, Batch, Committed, Op, StoreError, Ticket};

/// Times are exact up to here in Redis' scripts.
const TIME_MAX: u64 = 1 << 53;

/// Changes of records, and a place for what becomes of them.
#[derive(Debug)]
pub struct RecordBatch {
    puts: Box<[RecordPut]>,
    outcomes: Mutex<Vec<Option<PutOutcome>>>,
}

impl RecordBatch {
    pub(crate) fn new(puts: Vec<RecordPut>) -> Self {
        let outcomes = vec![None; puts.len()];
        Self {
            puts: puts.into(),
            outcomes: Mutex::new(outcomes),
        }
    }

    /// The changes, in order.
    #[must_use]
    pub fn puts(&self) -> &[RecordPut] {
        &self.puts
    }

    /// The change at this place has come to this.
    pub(crate) fn set(&self, at: usize, outcome: PutOutcome) {
        if let Some(place) = self.outcomes.lock().get_mut(at) {
            *place = Some(outcome);
        }
    }

    /// All of them, unless something has gone wrong.
    fn take(&self) -> Option<Vec<PutOutcome>> {
        std::mem::take(&mut *self.outcomes.lock())
            .into_iter()
            .collect()
    }

    /// Bytes of memory, roughly.
    pub(crate) fn weight(&self) -> usize {
        const EACH: usize = 160;
        self.puts.iter().map(|put| EACH + put.size()).sum()
    }

    /// Refuses what is over a bound.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        let refuse = |reason: String| Err(StoreError::InvalidOp { reason });
        let count = self.puts.len();
        if count > RECORDS_AT_ONCE {
            return refuse(format!(
                "{count} records are to be changed at once, more than {RECORDS_AT_ONCE}"
            ));
        }
        let bytes: usize = self.puts.iter().map(RecordPut::size).sum();
        if bytes > RECORD_BYTES_AT_ONCE.max(RECORD_KEY_MAX + RECORD_VALUE_MAX) {
            return refuse(format!(
                "{bytes} bytes of records are to be written at once, more than {RECORD_BYTES_AT_ONCE}"
            ));
        }
        for put in &self.puts {
            check_key(&put.key)?;
            let len = put.value.as_ref().map_or(0, bytes::Bytes::len);
            if len > RECORD_VALUE_MAX {
                return refuse(format!(
                    "the record {} of table {} has {len} bytes, more than {RECORD_VALUE_MAX}",
                    put.key.key,
                    put.key.table.name()
                ));
            }
            if put.expires_at_ms.is_some_and(|at| at >= TIME_MAX) {
                return refuse(format!(
                    "the record {} of table {} is to end after year 285,000",
                    put.key.key,
                    put.key.table.name()
                ));
            }
        }
        Ok(())
    }
}

pub(crate) fn check_key(key: &RecordKey) -> Result<(), StoreError> {
    let len = key.key.len();
    if (1..=RECORD_KEY_MAX).contains(&len) {
        return Ok(());
    }
    Err(StoreError::InvalidOp {
        reason: format!(
            "the key of a record of table {} has {len} bytes, not 1 to {RECORD_KEY_MAX}",
            key.table.name()
        ),
    })
}

/// For reads: what no store answers.
pub(crate) fn check_keys(keys: &[RecordKey]) -> Result<(), StoreError> {
    if keys.len() > RECORDS_AT_ONCE {
        return Err(StoreError::InvalidOp {
            reason: format!(
                "{} records are asked for at once, more than {RECORDS_AT_ONCE}",
                keys.len()
            ),
        });
    }
    keys.iter().try_for_each(check_key)
}

struct Told(oneshot::Sender<Result<(), StoreError>>);

impl Committed for Told {
    fn committed(self: Box<Self>, _: Vec<Appended>) {
        // Nobody may wait any more.
        self.0.send(Ok(())).ok();
    }

    fn failed(self: Box<Self>, error: &StoreError) {
        self.0.send(Err(error.clone())).ok();
    }
}

/// Hands changes in as a batch.
pub(crate) fn put(
    submit: impl FnOnce(Batch) -> Ticket,
    puts: Vec<RecordPut>,
    everywhere: bool,
) -> Put {
    let records = Arc::new(RecordBatch::new(puts));
    let (sender, receiver) = oneshot::channel();
    let mut batch = Batch::with_callback(
        vec![Op::Records(Arc::clone(&records))],
        Box::new(Told(sender)),
    );
    batch.barrier = everywhere;
    submit(batch);
    Box::pin(async move {
        receiver.await.unwrap_or(Err(StoreError::Closed))?;
        records.take().ok_or_else(|| StoreError::Cluster {
            reason: "it is not known what became of it".to_owned(),
        })
    })
}

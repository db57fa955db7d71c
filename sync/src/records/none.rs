//! For stores that keep none.

use std::sync::Arc;

use super::{
    Cursor, Got, Listeners, Put, RecordChanges, RecordKey, RecordListener, RecordPut, Records,
    ScanPage, Table,
};
use crate::{BoxFuture, StoreError};

/// Refuses everything.
#[derive(Default)]
pub(crate) struct NoRecords(Listeners);

fn refused<T: Send + 'static>() -> BoxFuture<Result<T, StoreError>> {
    Box::pin(std::future::ready(Err(StoreError::InvalidOp {
        reason: "this store keeps no records".to_owned(),
    })))
}

impl Records for NoRecords {
    fn get(&self, _: Vec<RecordKey>) -> Got {
        refused()
    }

    fn put(&self, _: Vec<RecordPut>) -> Put {
        refused()
    }

    fn put_everywhere(&self, _: Vec<RecordPut>) -> Put {
        refused()
    }

    fn scan(
        &self,
        _: Table,
        _: Option<Cursor>,
        _: usize,
    ) -> BoxFuture<Result<ScanPage, StoreError>> {
        refused()
    }

    fn listen(&self, listener: &Arc<dyn RecordListener>) {
        self.0.add(listener);
    }

    fn subscribe(&self) -> RecordChanges {
        self.0.subscribe()
    }
}

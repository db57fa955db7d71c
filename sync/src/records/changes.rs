//! Telling those who want to know of changes.

use std::sync::{Arc, OnceLock, Weak};

use parking_lot::RwLock;
use tokio::sync::broadcast;
use tracing::error;

use super::RecordKey;
use crate::cluster::Bucket;

/// Changes that may wait for a subscriber. Worst memory 500 KiB, once anybody has subscribed.
const CHANGES_MAX: usize = 4096;
/// Listeners of one store.
const LISTENERS_MAX: usize = 64;

/// What listeners are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordChange {
    /// A record was set, removed, or its time is over.
    Changed {
        /// Which.
        key: RecordKey,
        /// Of the change.
        revision: u64,
        /// See [`RecordPut::hint`](super::RecordPut::hint).
        hint: u8,
    },
    /// Any records, of all tables, may have changed since they were read.
    Missed {
        /// Only those of this bucket, if there is one.
        bucket: Option<Bucket>,
    },
}

impl RecordChange {
    /// Whether what is known of this record may be old after it.
    #[must_use]
    pub fn concerns(&self, key: &RecordKey) -> bool {
        match self {
            Self::Changed { key: changed, .. } => changed == key,
            Self::Missed { bucket } => bucket.is_none_or(|bucket| bucket == key.bucket()),
        }
    }
}

/// Somebody who wants to know. See [`Records::listen`](super::Records::listen).
pub trait RecordListener: Send + Sync {
    /// Something has changed.
    fn changed(&self, change: &RecordChange);
}

/// A stream of changes. See [`Records::subscribe`](super::Records::subscribe).
pub struct RecordChanges {
    receiver: broadcast::Receiver<RecordChange>,
}

impl RecordChanges {
    /// The next one; `None` when the store is gone. Cancel safe.
    pub async fn next(&mut self) -> Option<RecordChange> {
        match self.receiver.recv().await {
            Ok(change) => Some(change),
            Err(broadcast::error::RecvError::Lagged(_)) => {
                Some(RecordChange::Missed { bucket: None })
            }
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

/// Those who want to know.
#[derive(Default)]
pub(crate) struct Listeners {
    list: RwLock<Vec<Weak<dyn RecordListener>>>,
    stream: OnceLock<broadcast::Sender<RecordChange>>,
}

impl Listeners {
    pub(crate) fn add(&self, listener: &Arc<dyn RecordListener>) {
        let mut list = self.list.write();
        list.retain(|known| known.strong_count() > 0);
        if list.len() >= LISTENERS_MAX {
            error!("{LISTENERS_MAX} listeners are told of records, one more is not");
            return;
        }
        list.push(Arc::downgrade(listener));
    }

    pub(crate) fn subscribe(&self) -> RecordChanges {
        let stream = self
            .stream
            .get_or_init(|| broadcast::Sender::new(CHANGES_MAX));
        RecordChanges {
            receiver: stream.subscribe(),
        }
    }

    pub(crate) fn tell(&self, change: RecordChange) {
        // A listener may add another one.
        let list: Vec<_> = self.list.read().iter().filter_map(Weak::upgrade).collect();
        for listener in list {
            listener.changed(&change);
        }
        if let Some(stream) = self.stream.get() {
            // An error says that nobody listens at the moment.
            stream.send(change).ok();
        }
    }
}

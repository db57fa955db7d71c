//! Numbers and records that the layers of the cluster have in common.

use std::sync::Arc;

use crate::{SessionId, SubscriptionRecord};

/// Number of buckets: the tables, and everything of one client, are spread over so many hash slots.
/// Part of the format of the keys: it never changes.
pub const BUCKETS: u16 = 256;

/// One running broker process; a new number at every start, never used again. 0 is nobody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplicaId(pub u64);

/// Fencing number of a claim of a client id; rises within a bucket. 0 is no claim.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

/// A share of the keys, with a version of its own; all its keys have one hash slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bucket(pub u16);

impl Bucket {
    /// The bucket of a client id or a topic: FNV-1a, folded. Part of the format of the keys.
    #[must_use]
    pub fn of(text: &str) -> Self {
        let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
        for byte in text.as_bytes() {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
        let folded = hash ^ (hash >> 32);
        let folded = folded ^ (folded >> 16);
        Self((folded % u64::from(BUCKETS)) as u16)
    }

    /// The bucket of a session: its number says.
    #[must_use]
    pub fn of_session(session: SessionId) -> Self {
        Self((session.0 % u64::from(BUCKETS)) as u16)
    }

    /// The session number of this bucket that the counter value `n` stands for.
    #[must_use]
    pub fn session(self, n: u64) -> SessionId {
        SessionId(n * u64::from(BUCKETS) + u64::from(self.0))
    }

    /// All buckets, ascending.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..BUCKETS).map(Self)
    }
}

/// What the connected sessions of a replica want of a filter. A route with no flag set is no route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Route {
    /// See the constants.
    pub flags: u8,
    /// Of a `$share/…` filter: connected members there whose session ends with its connection.
    pub members: u16,
}

impl Route {
    /// A connected session was granted QoS 0: it gets every publish, over the `sync` lane.
    pub const AT_MOST_ONCE: u8 = 1;
    /// A session that ends with its connection was granted QoS 1 or 2: QoS 0 publishes go over the
    /// `sync` lane, others through the replica's inbox.
    pub const ACKNOWLEDGED: u8 = 2;
    /// A persistent session was granted QoS 1 or 2: QoS 0 publishes go over the `sync` lane, others
    /// through its queue.
    pub const STORED: u8 = 4;
    /// Of a `$share/…` filter: no member there can be sent to at once.
    pub const BUSY: u8 = 8;

    /// Whether there is any interest.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.flags & !Self::BUSY == 0
    }
}

/// A persistent session as every replica knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionEntry {
    /// Its number.
    pub id: SessionId,
    /// Its client.
    pub client_id: Arc<str>,
    /// Its subscriptions, by filter, ascending.
    pub subscriptions: Vec<SubscriptionRecord>,
    /// The replica that its client is connected to. A hint, kept only for sessions with shared
    /// subscriptions.
    pub owner: ReplicaId,
}

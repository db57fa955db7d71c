//! What the hub does when memory runs short. See [`crate::memory`].

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Hub;
use super::session::Session;
use super::wake::{CloseRequest, Wake};

/// Less than this is not worth a connection.
const WORTH: u64 = 64 * 1024;

impl Hub {
    /// Whether new clients are to be refused, and publishers to be held back.
    pub(crate) fn set_memory(&self, crowded: bool, short: bool) {
        self.crowded.store(crowded, Ordering::Relaxed);
        self.short_of_memory.store(short, Ordering::Relaxed);
    }

    /// Whether new clients are to be refused for want of memory.
    pub(crate) fn is_crowded(&self) -> bool {
        self.crowded.load(Ordering::Relaxed)
    }

    /// Whether publishers are to be held back for want of memory.
    pub(crate) fn is_short_of_memory(&self) -> bool {
        self.short_of_memory.load(Ordering::Relaxed)
    }

    /// Ends the connections for which most waits in memory, as many as hold `wanted` bytes together. Gives back how many.
    pub(crate) fn relieve(&self, wanted: u64) -> usize {
        let mut holders: Vec<(u64, Arc<Wake>)> = Vec::new();
        for shard in &self.shards {
            let sessions = shard.sessions.lock();
            holders.extend(sessions.values().filter_map(|session| held(session)));
        }
        holders.sort_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
        let mut ended = 0;
        let mut sum = 0;
        for (bytes, wake) in holders {
            if sum >= wanted {
                break;
            }
            wake.close(CloseRequest::MemoryShort);
            sum += bytes;
            ended += 1;
        }
        self.metrics.memory_disconnects.inc_by(ended as u64);
        ended
    }
}

/// The bytes that wait for a connected client, where they are worth it.
fn held(session: &Session) -> Option<(u64, Arc<Wake>)> {
    let state = session.lock();
    let wake = state.wake.as_ref()?;
    if wake.close_request().is_some() {
        return None;
    }
    let out = state
        .delivering
        .link
        .as_ref()
        .map_or(0, |link| link.out.len() as u64);
    let queued = match session.store_id {
        // It is in the store, but for a few.
        Some(_) => 0,
        None => state.delivering.outbound.queued().1,
    };
    let bytes = out + queued;
    (bytes >= WORTH).then(|| (bytes, Arc::clone(wake)))
}

//! What is counted.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! figures {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {
        /// Counters since the start of the process, and some present values.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct Figures {
            $($(#[$doc])* pub $name: u64,)+
        }

        /// The same, as they are counted.
        #[derive(Debug, Default)]
        pub(super) struct Counters {
            $(pub(super) $name: Counter,)+
        }

        impl Counters {
            pub(super) fn read(&self) -> Figures {
                Figures { $($name: self.$name.get(),)+ }
            }
        }
    };
}

figures! {
    /// Frames published on `sync` and on channels of replicas.
    frames_out,
    /// Messages in them.
    messages_out,
    /// Frames heard there.
    frames_in,
    /// Messages in them.
    messages_in,
    /// Frames appended to inboxes.
    inbox_frames_out,
    /// Messages in them.
    inbox_messages_out,
    /// Frames read from the own inbox.
    inbox_frames_in,
    /// Messages in them.
    inbox_messages_in,
    /// Frames of the own inbox that had been read before.
    inbox_repeated,
    /// Frames of the own inbox that were held for longer than there is room.
    held_given_up,
    /// Messages that a lane had no room for.
    lane_dropped,
    /// Frames that were lost on their way out, with their connection.
    frames_lost,
    /// Frames that are missing, by the numbers of those that came.
    frames_missing,
    /// Gaps in the numbers of a lane.
    gaps,
    /// Frames, or parts of frames, that a newer replica or something foreign wrote.
    frames_unknown,
    /// Frames and records that cannot be read.
    damaged,
    /// Buckets and routes that were loaded from Redis.
    loads,
    /// Of those, because of a gap.
    reloads,
    /// Changes of tables that were applied.
    table_changes,
    /// Rounds of changes that were sent to Redis.
    rounds,
    /// Batches in them.
    round_batches,
    /// Requests in them.
    round_requests,
    /// Messages for persistent sessions in them.
    appends,
    /// Messages that the queue of their session had no room for.
    queue_full,
    /// Messages that had been appended before.
    append_repeated,
    /// Messages that were appended to taps.
    tap_appends,
    /// Messages of QoS 0 that a tap had no room for.
    tap_dropped,
    /// Batches that waited for other replicas.
    barriers,
    /// Microseconds that they waited, together.
    barrier_wait_us,
    /// Times that other replicas were asked what they have applied.
    barrier_asks,
    /// Claims of client ids.
    claims,
    /// Of those, not answered.
    claims_failed,
    /// Writes that were refused as the claim was another's.
    fenced,
    /// Times that this replica stopped acknowledging.
    suspended,
    /// Times that this replica was taken for dead and joined anew.
    rejoined,
    /// Other replicas that were reaped by this one.
    reaped,
    /// Sessions whose time had come.
    sessions_expired,
    /// Wills whose time had come.
    wills_due,
    /// Now: batches that wait for their acknowledgement because this replica may not give any.
    commits_held,
    /// Now: rounds that Redis has not answered.
    rounds_open,
    /// Now: batches that wait for other replicas.
    barriers_open,
    /// Now: microseconds since the last renewal of the lease.
    lease_age_us,
    /// Now: bytes of batches that are not durable.
    pending_bytes,
    /// Now: messages that wait for room in a tap.
    tap_waiting,
    /// Now: bytes that wait for a lane.
    lane_waiting_bytes,
    /// Now: dead replicas that this one is clearing away after.
    reaping,
    /// Now: other replicas that are alive.
    peers,
}

/// One of them.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(super) fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

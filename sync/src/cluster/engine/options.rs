//! What can be set.

use std::time::Duration;

use bytes::Bytes;

/// Longest [`EngineOptions::info`].
pub(super) const INFO_MAX: usize = 3 << 10;

/// How a replica behaves. All times are of the runtime's clock, which a simulation may set.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// What `cluster status` shows of this replica: lines of `key=value`, at most 3 KiB. While it clears
    /// away after dead replicas the engine adds a line `reaping=` with their numbers.
    pub info: Bytes,
    /// All that is drawn at random comes from it: a real replica sets it at random, a simulation does
    /// not. Two replicas of one cluster must never have the same.
    pub seed: u64,
    /// Length of the lease: a replica that has not renewed it for so long is reaped. Default 6 s.
    pub lease: Duration,
    /// A replica that has not renewed its lease for so long, counted from before it asked, acknowledges
    /// nothing. Must be shorter than the lease by more than the clocks of two machines differ in
    /// speed. Default 4 s.
    pub fence: Duration,
    /// Time between renewals. Default 1 s.
    pub renew_every: Duration,
    /// Longest wait for a claim. Default 5 s.
    pub claim_timeout: Duration,
    /// An old connection's will is left to the claimer for so long before the sweep takes it. Default 10 s.
    pub will_grace: Duration,
    /// Bound of the queue of a session: messages. Default 100,000.
    pub queue_max_messages: u64,
    /// Bound of the queue of a session: bytes as stored. Default 64 MiB.
    pub queue_max_bytes: u64,
    /// Rounds of changes that may be under way at once. Default 8.
    pub rounds_max: usize,
    /// Bytes after which a round takes no further batch. Default 1 MiB.
    pub round_bytes: usize,
    /// Batches after which a round takes no further one. Default 4096.
    pub round_batches: usize,
    /// Acknowledgements of receivers alone wait so long for company: nobody waits for them, and a round of
    /// their own costs three wake-ups. What a crash repeats grows by them. Default 2 ms.
    pub settle_delay: Duration,
    /// Bytes that may wait for one lane; what exceeds it is dropped and counted. Default 4 MiB.
    pub lane_bytes: usize,
    /// Bytes after which a frame takes no further message. Default 64 KiB.
    pub frame_bytes: usize,
    /// Bytes of the own inbox that are kept there for a shared message that is not acknowledged; beyond
    /// that it is let go of, and lost if this replica dies before it is acknowledged. Default 64 MiB.
    pub held_bytes: usize,
    /// Buckets that are loaded at the same time. Default 16.
    pub load_parallel: usize,
    /// Time between two looks at what is due. Default 1 s.
    pub sweep_every: Duration,
    /// Time between two comparisons of the tables' versions with Redis. Default 10 s.
    pub check_every: Duration,
    /// Longest wait for Redis when the store is closed or dropped. Default 10 s.
    pub close_patience: Duration,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            info: Bytes::new(),
            seed: 0,
            lease: Duration::from_secs(6),
            fence: Duration::from_secs(4),
            renew_every: Duration::from_secs(1),
            claim_timeout: Duration::from_secs(5),
            will_grace: Duration::from_secs(10),
            queue_max_messages: 100_000,
            queue_max_bytes: 64 << 20,
            rounds_max: 8,
            round_bytes: 1 << 20,
            round_batches: 4096,
            settle_delay: Duration::from_millis(2),
            lane_bytes: 4 << 20,
            frame_bytes: 64 << 10,
            held_bytes: 64 << 20,
            load_parallel: 16,
            sweep_every: Duration::from_secs(1),
            check_every: Duration::from_secs(10),
            close_patience: Duration::from_secs(10),
        }
    }
}

impl EngineOptions {
    /// Renewals in the length of a lease, all in time.
    pub(super) fn renewals_of_a_lease(&self) -> u32 {
        let length = self.lease.as_millis() / self.renew_every.as_millis().max(1);
        u32::try_from(length).unwrap_or(u32::MAX)
    }

    pub(super) fn lease_ms(&self) -> u64 {
        self.lease.as_millis() as u64
    }
}

/// Draws numbers from a seed (splitmix64).
#[derive(Debug)]
pub(super) struct Draw(u64);

impl Draw {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

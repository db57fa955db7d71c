//! What a run consists of.

/// Numbers of everything; all of them follow from the seed.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) replicas: usize,
    /// Publishers with a persistent session, each with topics of its own.
    pub(crate) publishers: usize,
    pub(crate) messages_each: u32,
    /// About how long a publisher takes for them: as long as the faults, in milliseconds.
    pub(crate) span_ms: u64,
    /// Persistent sessions that subscribe to everything the publishers of one group send.
    pub(crate) subscribers: usize,
    /// The same with sessions that end with their connection.
    pub(crate) clean_subscribers: usize,
    /// Groups of publishers and subscribers.
    pub(crate) groups: usize,
    /// Clients with wills that vanish.
    pub(crate) mortals: usize,
    pub(crate) lives_each: u32,
    /// Topics with retained messages, each with one writer and some readers.
    pub(crate) retained: usize,
    /// Members of the pool, a shared subscription of persistent sessions.
    pub(crate) members: usize,
    /// Members of the mixed shared subscription whose sessions end with their connections.
    pub(crate) clean_members: usize,
    /// Milliseconds for which members of shared groups stay at the most.
    pub(crate) members_stay_ms: u64,
    /// Receive Maximum of every other member of the pool; 0: none is given.
    pub(crate) members_window: u16,
    /// Milliseconds that members of the pool take for a message at the most.
    pub(crate) members_slowness_ms: u64,
    /// Records, each with two writers and two readers.
    pub(crate) records: usize,
    /// Changes that each of these writers makes.
    pub(crate) changes_each: u32,
    /// Clients that only connect, ping and vanish.
    pub(crate) idlers: usize,
    /// Faults, one after the other.
    pub(crate) faults: u32,
    /// Redis may lose its newest writes.
    pub(crate) failovers: bool,
    pub(crate) planted_early_acknowledgement: bool,
    pub(crate) planted_no_epoch_check: bool,
    pub(crate) planted_lost_records: bool,
}

impl Plan {
    pub(crate) fn calm(seed: u64) -> Self {
        Self {
            faults: 0,
            ..Self::storm(seed)
        }
    }

    pub(crate) fn failovers(seed: u64) -> Self {
        Self {
            failovers: true,
            faults: 2,
            messages_each: 40,
            span_ms: 40_000,
            ..Self::storm(seed)
        }
    }

    /// Shared groups whose members hardly stay, so that messages change hands all the time, also when replicas die.
    pub(crate) fn crowds(seed: u64) -> Self {
        Self {
            publishers: 8,
            messages_each: 60,
            span_ms: 20_000,
            subscribers: 4,
            clean_subscribers: 0,
            mortals: 0,
            retained: 0,
            members: 6,
            clean_members: 6,
            members_stay_ms: 1_500,
            members_window: 1,
            members_slowness_ms: 100,
            records: 0,
            idlers: 0,
            faults: 8,
            ..Self::storm(seed)
        }
    }

    pub(crate) fn storm(seed: u64) -> Self {
        Self {
            seed,
            replicas: 5,
            publishers: 24,
            messages_each: 12,
            span_ms: 15_000,
            subscribers: 16,
            clean_subscribers: 8,
            groups: 4,
            mortals: 8,
            lives_each: 3,
            retained: 4,
            members: 4,
            clean_members: 4,
            members_stay_ms: 20_000,
            members_window: 0,
            members_slowness_ms: 0,
            records: 3,
            changes_each: 8,
            idlers: 40,
            faults: 6,
            failovers: false,
            planted_early_acknowledgement: false,
            planted_no_epoch_check: false,
            planted_lost_records: false,
        }
    }
}

/// Random numbers from a seed (splitmix64).
#[derive(Clone, Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn of(seed: u64, what: &str, number: usize) -> Self {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ number as u64;
        for byte in what.bytes() {
            state = state.wrapping_mul(0x0100_0000_01b3) ^ u64::from(byte);
        }
        Self(state)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    pub(crate) fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }
}

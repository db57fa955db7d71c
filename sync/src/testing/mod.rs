//! The conformance suite of [`Store`]: every store runs [`store_conformance!`](crate::store_conformance),
//! one that outlives its process also runs [`store_reopen_conformance!`](crate::store_reopen_conformance).
//!
//! Cases are plain functions over a [`Place`], so that a failing one can be run alone.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    reason = "a test that meets the unexpected has to stop"
)]

pub mod cases;
pub mod records;
pub mod reopen;
pub mod samples;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use tokio::runtime::Runtime;

use crate::{
    Appended, Batch, Committed, Op, QueueEntry, SessionId, Store, StoreError, Ticket, wait_durable,
};

/// Longest wait for anything in a test.
pub const LIMIT: Duration = Duration::from_secs(30);

/// Somewhere a store can be opened, and opened again after it was dropped.
pub trait Place {
    /// Opens the store that is there, or creates one.
    fn open(&self) -> Arc<dyn Store>;

    /// The clock by which its records end: Unix time in milliseconds.
    fn now_ms(&self) -> u64 {
        crate::records::judge::now_ms()
    }
}

impl<F: Fn() -> Arc<dyn Store>> Place for F {
    fn open(&self) -> Arc<dyn Store> {
        self()
    }
}

/// What became of a batch.
pub type Outcome = Result<Vec<Appended>, StoreError>;

/// Passes the outcome of a batch on to a test, which may have gone without waiting for it.
struct Report(SyncSender<Outcome>);

impl Committed for Report {
    fn committed(self: Box<Self>, appended: Vec<Appended>) {
        self.0.send(Ok(appended)).ok();
    }

    fn failed(self: Box<Self>, error: &StoreError) {
        self.0.send(Err(error.clone())).ok();
    }
}

/// A store with blocking calls for tests.
pub struct Driver {
    store: Arc<dyn Store>,
    runtime: Runtime,
}

impl Driver {
    /// Drives an open store.
    #[must_use]
    pub fn new(store: Arc<dyn Store>) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        Self { store, runtime }
    }

    /// The store itself.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Submits without waiting; the outcome arrives at the receiver.
    pub fn submit(&self, ops: Vec<Op>) -> (Ticket, Receiver<Outcome>) {
        let (sender, receiver) = sync_channel(1);
        let batch = Batch::with_callback(ops, Box::new(Report(sender)));
        (self.store.submit(batch), receiver)
    }

    /// Submits and waits for the outcome.
    pub fn try_commit(&self, ops: Vec<Op>) -> Outcome {
        let (_, outcome) = self.submit(ops);
        outcome.recv_timeout(LIMIT).unwrap()
    }

    /// Submits, waits, and insists on success.
    pub fn commit(&self, ops: Vec<Op>) -> Vec<Appended> {
        self.try_commit(ops).unwrap()
    }

    /// Creates a persistent session for `client`.
    pub fn new_session(&self, client: &str) -> SessionId {
        let id = self.store.next_session_id();
        self.commit(vec![Op::PutSession(samples::session(id, client))]);
        id
    }

    /// Queues one message and returns its position.
    pub fn enqueue(&self, session: SessionId, text: &str) -> u64 {
        self.commit(vec![samples::enqueue(session, text)])[0].seq
    }

    /// Reads from a queue.
    #[must_use]
    pub fn read(
        &self,
        session: SessionId,
        from: u64,
        entries: usize,
        bytes: usize,
    ) -> Vec<QueueEntry> {
        self.runtime
            .block_on(async { self.store.read_queue(session, from, entries, bytes).await })
            .unwrap()
    }

    /// Reads a whole queue.
    #[must_use]
    pub fn read_all(&self, session: SessionId) -> Vec<QueueEntry> {
        self.read(session, 0, usize::MAX, usize::MAX)
    }

    /// Positions and payloads of a whole queue, as text.
    #[must_use]
    pub fn texts(&self, session: SessionId) -> Vec<(u64, String)> {
        self.read_all(session)
            .iter()
            .map(|entry| {
                let text = entry.message.as_ref().map_or_else(
                    || "released".to_owned(),
                    |message| String::from_utf8_lossy(message.payload()).into_owned(),
                );
                (entry.seq, text)
            })
            .collect()
    }

    /// Waits for anything.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }

    /// Waits until a ticket is durable or has failed.
    pub fn wait(&self, ticket: Ticket) {
        let waited = self.runtime.block_on(async {
            tokio::time::timeout(LIMIT, wait_durable(&*self.store, ticket)).await
        });
        assert!(
            waited.unwrap(),
            "the store stopped before the ticket was durable"
        );
    }
}

/// Runs the conformance suite: `store_conformance!(embedded => expression of a Place)`, once per store.
#[macro_export]
macro_rules! store_conformance {
    ($name:ident => $place:expr) => {
        $crate::store_cases!($name, cases, $place => [
            positions_begin_at_zero_and_rise,
            entries_are_read_in_order_with_gaps_where_dequeued,
            reading_begins_at_the_given_position,
            reading_ends_at_the_number_of_entries,
            reading_ends_at_the_number_of_bytes_but_gives_one_at_least,
            a_released_entry_stays_in_its_place_without_its_message,
            every_field_of_an_entry_comes_back,
            a_large_message_in_many_queues_is_read_from_each_until_the_last_is_done,
            a_message_for_an_unknown_session_is_dropped_and_said_so,
            a_deleted_session_has_no_queue_and_its_neighbours_keep_theirs,
            changes_of_one_batch_apply_in_order,
            a_refused_batch_changes_nothing_and_the_store_goes_on,
            callbacks_come_in_the_order_of_submission,
            an_empty_batch_is_a_barrier,
            the_durable_ticket_rises_and_pending_bytes_fall_to_zero,
            session_ids_differ,
            the_state_at_opening_is_handed_out_once,
            after_close_every_batch_is_answered_with_closed,
            closing_commits_what_was_submitted,
            the_last_handle_of_a_store_may_be_dropped_by_a_callback,
            a_panic_in_a_callback_stops_the_store_but_not_reading,
            many_submitters_keep_their_own_order,
        ]);
    };
}

/// Runs the part of the suite that opens a store again: only for stores that outlive their process.
#[macro_export]
macro_rules! store_reopen_conformance {
    ($name:ident => $place:expr) => {
        $crate::store_cases!($name, reopen, $place => [
            everything_put_is_found_again,
            replaced_and_deleted_records_stay_so,
            a_queue_is_found_with_its_head_tail_length_and_bytes,
            positions_are_never_used_twice_even_when_the_queue_was_empty,
            session_ids_are_never_used_twice,
            a_large_message_in_many_queues_survives_until_the_last_is_done,
            a_deleted_session_leaves_nothing_however_much_it_had,
            the_longest_texts_are_kept,
            a_store_that_was_dropped_without_close_has_everything,
        ]);
    };
}

/// Runs the part of the suite that is about [`Records`](crate::records::Records). Not for stores that wait for other replicas.
#[macro_export]
macro_rules! records_conformance {
    ($name:ident => $place:expr) => {
        $crate::store_cases!($name, records, $place => [
            a_record_is_what_was_put_last,
            a_record_changes_only_if_what_is_expected_is_there,
            a_revision_of_a_record_is_not_used_again_after_it_was_removed,
            each_of_many_records_has_an_outcome_of_its_own,
            changes_of_one_record_in_one_call_are_made_in_order,
            of_two_who_make_the_same_record_one_succeeds,
            a_scan_gives_each_record_of_a_table_once,
            a_record_whose_time_is_over_is_not_there,
            the_longest_record_is_kept_and_a_longer_one_is_refused,
            listeners_are_told_of_changes_before_a_put_everywhere_resolves,
        ]);
    };
}

/// What only a store does that clears away by itself.
#[macro_export]
macro_rules! records_sweep_conformance {
    ($name:ident => $place:expr) => {
        $crate::store_cases!($name, records, $place => [the_end_of_a_records_time_is_told]);
    };
}

/// The part of it that opens a store again.
#[macro_export]
macro_rules! records_reopen_conformance {
    ($name:ident => $place:expr) => {
        $crate::store_cases!($name, records, $place => [records_are_found_again]);
    };
}

/// Makes a test of each case.
#[doc(hidden)]
#[macro_export]
macro_rules! store_cases {
    ($name:ident, $module:ident, $place:expr => [$($case:ident),+ $(,)?]) => {
        mod $name {
            #[allow(unused_imports, reason = "the expression may need its surroundings")]
            use super::*;
            $(
                #[test]
                fn $case() {
                    let place = $place;
                    $crate::testing::$module::$case(&place);
                }
            )+
        }
    };
}

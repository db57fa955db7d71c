//! The stored queue of a client's session, as its connection reads it.

use std::future::poll_fn;
use std::task::Poll;

use dunlin_sync::QueueEntry;

use super::close::Closing;
use super::run::Connection;
use crate::core::outbound::Tally;

impl Connection {
    /// Looks through the stored queue for entries that have come back after a failover.
    pub(super) async fn restore(&mut self, from: u64) -> Result<(), Closing> {
        let mut next = Some(from);
        while let Some(from) = next {
            // Every entry that is done with has been told to the store before it is read.
            let _turn = self.collect();
            let entries = self.read_queue(from).await?;
            let mut ops = Vec::new();
            next = self
                .session
                .lock()
                .delivering
                .outbound
                .take_restored(entries, &mut ops);
            self.submit(ops, false, false);
        }
        Ok(())
    }

    pub(super) async fn refill(&mut self, from: u64, tail: u64) -> Result<(), Closing> {
        let entries = self.read_queue(from).await?;
        // Fewer by count may be for their bytes: only an empty answer says that there are no more.
        let exhausted = entries.is_empty();
        let mut tally = Tally::default();
        self.session.lock().delivering.refill(
            entries,
            tail,
            exhausted,
            self.hub.clock.now_ms(),
            &mut tally,
        );
        self.hub.count(tally);
        Ok(())
    }

    async fn read_queue(&mut self, from: u64) -> Result<Vec<QueueEntry>, Closing> {
        let Some(id) = self.session.store_id else {
            return Ok(Vec::new());
        };
        let entries_max = self.hub.queue_bounds.ready;
        let bytes_max = self.hub.limits.outbox_bytes as usize;
        let mut reading = self.hub.store.read_queue(id, from, entries_max, bytes_max);
        // A store that is away may take long: meanwhile the connection can still be closed.
        let entries = poll_fn(|cx| {
            self.wake.begin(cx.waker());
            if let Some(request) = self.wake.close_request() {
                return Poll::Ready(Err(request));
            }
            reading.as_mut().poll(cx).map(Ok)
        });
        match entries.await {
            Ok(Ok(entries)) => Ok(entries),
            Ok(Err(error)) => {
                self.hub.commit_failed(&error);
                Err(Closing::Asked(self.hub.failed_request()))
            }
            Err(request) => Err(Closing::Asked(request)),
        }
    }
}

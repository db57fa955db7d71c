//! What one write stream has been given and not yet answered: offsets, and what to send again after which answer.
//!
//! Pure. Rows get contiguous offsets in the order in which they are pushed. Answers of one connection come in the order of its
//! requests, so an answer is always about the oldest request that was sent. The rules that keep rows from being lost
//! or stored twice:
//!
//! - What is sent again has the same rows at the same offsets, so it does not matter whether the first attempt has arrived.
//! - When rows are taken out, those behind them get other offsets. That is done only when every request that was sent is
//!   answered, or the stream is finalized: no request with an old offset can arrive later. What was under way on a connection that
//!   has ended is never answered, and may still arrive: [`Window::may_renumber`].

use std::collections::VecDeque;
use std::ops::Range;

use bytes::Bytes;

/// Rows of one request: encoded, with the position in the tap that each is made of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rows {
    rows: Vec<Bytes>,
    positions: Vec<u64>,
    bytes: usize,
}

impl Rows {
    /// Adds a row. Positions rise.
    pub fn push(&mut self, position: u64, row: Bytes) {
        self.bytes += row.len();
        self.rows.push(row);
        self.positions.push(position);
    }

    /// Number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Bytes of the encoded rows.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// The encoded rows.
    #[must_use]
    pub fn rows(&self) -> &[Bytes] {
        &self.rows
    }

    /// Position of each row.
    #[must_use]
    pub fn positions(&self) -> &[u64] {
        &self.positions
    }

    /// Position of the first row.
    #[must_use]
    pub fn oldest(&self) -> Option<u64> {
        self.positions.first().copied()
    }

    /// Takes out the rows with these indices, which rise; the last one comes first.
    pub(super) fn take_out(&mut self, indices: &[usize]) -> Self {
        let mut taken = Self::default();
        for index in indices.iter().rev() {
            let row = self.take(*index..index.saturating_add(1));
            for (row, position) in row.rows.into_iter().zip(row.positions) {
                taken.push(position, row);
            }
        }
        taken
    }

    /// Takes out the rows of a range.
    pub(super) fn take(&mut self, range: Range<usize>) -> Self {
        let range = range.start.min(self.len())..range.end.min(self.len());
        let rows: Vec<Bytes> = self.rows.drain(range.clone()).collect();
        let bytes = rows.iter().map(Bytes::len).sum();
        self.bytes -= bytes;
        Self {
            rows,
            positions: self.positions.drain(range).collect(),
            bytes,
        }
    }
}

/// A request with its place in the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Append {
    /// Offset of the first row.
    pub offset: i64,
    /// The rows.
    pub rows: Rows,
}

/// Requests of one stream that are not answered for good.
#[derive(Debug, Default)]
pub struct Window {
    appends: VecDeque<Append>,
    /// How many of them, from the oldest, have been sent on this connection and are not answered.
    sent: usize,
    /// Answers to ignore: of requests that have been sent and will be sent again.
    stale: usize,
    /// One more than the offset of the last request that was under way on a connection that has ended: it may arrive late.
    adrift: i64,
    next_offset: i64,
    bytes: usize,
}

impl Window {
    /// Requests that wait for an answer or to be sent.
    #[must_use]
    pub fn len(&self) -> usize {
        self.appends.len()
    }

    /// Whether everything is answered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.appends.is_empty()
    }

    /// Bytes of all their rows.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Offset of the next row that is pushed.
    #[must_use]
    pub const fn next_offset(&self) -> i64 {
        self.next_offset
    }

    /// Offset of the oldest row without an answer; of the next one when there is none.
    #[must_use]
    pub fn oldest_offset(&self) -> i64 {
        self.appends
            .front()
            .map_or(self.next_offset, |append| append.offset)
    }

    /// Rows of the oldest request.
    #[must_use]
    pub fn oldest_len(&self) -> usize {
        self.appends.front().map_or(0, |append| append.rows.len())
    }

    /// Position of the oldest row without an answer.
    #[must_use]
    pub fn oldest(&self) -> Option<u64> {
        self.appends.front()?.rows.oldest()
    }

    /// Adds a request at the end of the stream.
    pub fn push(&mut self, rows: Rows) {
        self.bytes += rows.bytes;
        let append = Append {
            offset: self.next_offset,
            rows,
        };
        self.next_offset += count(&append.rows);
        self.appends.push_back(append);
    }

    /// The next request to send, of which at most `in_flight` are under way. It counts as sent. None also while answers of
    /// requests that will be sent again are awaited.
    pub fn send(&mut self, in_flight: usize) -> Option<&Append> {
        if self.stale > 0 || self.sent >= in_flight {
            return None;
        }
        let append = self.appends.get(self.sent)?;
        self.sent += 1;
        Some(append)
    }

    /// Whether an answer is awaited.
    #[must_use]
    pub const fn awaits(&self) -> bool {
        self.sent + self.stale > 0
    }

    /// Whether all that was sent is answered, though what was sent is not done: the moment to send again.
    #[must_use]
    pub const fn is_drained(&self) -> bool {
        self.sent == 0 && self.stale == 0
    }

    /// An answer has come. `true` when it is about a request that counts, the oldest.
    pub fn answered(&mut self) -> bool {
        if self.stale > 0 {
            self.stale -= 1;
            return false;
        }
        self.sent > 0
    }

    /// The oldest request is done: its rows are in the table.
    pub fn done(&mut self) -> Option<Rows> {
        let append = self.appends.pop_front()?;
        self.sent = self.sent.saturating_sub(1);
        self.bytes -= append.rows.bytes;
        Some(append.rows)
    }

    /// The oldest request has failed and has had its answer: it and all behind it are sent again, when the answers of those behind
    /// it have come. They can only be refusals, because an offset is missing before them, or confirmations of an earlier attempt.
    pub fn again(&mut self) {
        self.stale = self.sent.saturating_sub(1);
        self.sent = 0;
    }

    /// The connection is gone: everything is sent again on the next one.
    pub fn disconnected(&mut self) {
        // With stale answers the oldest has been answered, and those behind it are under way.
        let under_way = match self.stale {
            0 => self.sent,
            stale => stale + 1,
        };
        let last = self.appends.iter().take(under_way).next_back();
        self.adrift = self.adrift.max(last.map_or(0, |append| append.offset + 1));
        self.stale = 0;
        self.sent = 0;
    }

    /// Whether rows may get other offsets in this stream: nothing that was sent with an offset that is still free can arrive any more. Otherwise a new
    /// stream is needed first.
    #[must_use]
    pub fn may_renumber(&self) -> bool {
        self.is_drained() && self.adrift <= self.oldest_offset()
    }

    /// Takes rows out of the oldest request and moves up what follows. Only when that [may be](Self::may_renumber).
    pub fn take_out(&mut self, indices: &[usize]) -> Rows {
        let taken = match self.appends.front_mut() {
            Some(append) => append.rows.take_out(indices),
            None => Rows::default(),
        };
        self.bytes -= taken.bytes;
        self.number(
            self.appends
                .front()
                .map_or(self.next_offset, |append| append.offset),
        );
        taken
    }

    /// Cuts the oldest request in two, so that a bad row is found. `false` when it has a single row.
    pub fn halve(&mut self) -> bool {
        let Some(append) = self.appends.front_mut() else {
            return false;
        };
        let len = append.rows.len();
        if len < 2 {
            return false;
        }
        let first = append.rows.take(0..len / 2);
        let offset = append.offset;
        append.offset += count(&first);
        self.appends.push_front(Append {
            offset,
            rows: first,
        });
        true
    }

    /// A new stream, after the old one has been finalized with `stored` rows. Rows that are stored are done, the others begin
    /// at offset 0.
    pub fn restart(&mut self, stored: i64) -> Rows {
        (self.stale, self.sent, self.adrift) = (0, 0, 0);
        let mut done = Rows::default();
        while let Some(append) = self.appends.front_mut() {
            let Ok(inside) = usize::try_from(stored - append.offset) else {
                break;
            };
            if inside == 0 {
                break;
            }
            let stored = append.rows.take(0..inside);
            self.bytes -= stored.bytes;
            for (row, position) in stored.rows.into_iter().zip(stored.positions) {
                done.push(position, row);
            }
            if append.rows.is_empty() {
                self.appends.pop_front();
            } else {
                break;
            }
        }
        self.number(0);
        done
    }

    /// Gives everything new offsets from `offset`; what has become empty goes.
    fn number(&mut self, mut offset: i64) {
        self.appends.retain(|append| !append.rows.is_empty());
        for append in &mut self.appends {
            append.offset = offset;
            offset += count(&append.rows);
        }
        self.next_offset = offset;
    }
}

fn count(rows: &Rows) -> i64 {
    i64::try_from(rows.len()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rows(positions: Range<u64>) -> Rows {
        let mut rows = Rows::default();
        for position in positions {
            rows.push(position, Bytes::from(position.to_le_bytes().to_vec()));
        }
        rows
    }

    fn filled() -> Window {
        let mut window = Window::default();
        window.push(rows(1..4));
        window.push(rows(4..9));
        window.push(rows(9..10));
        window
    }

    fn offsets(window: &Window) -> Vec<(i64, usize)> {
        window
            .appends
            .iter()
            .map(|append| (append.offset, append.rows.len()))
            .collect()
    }

    #[test]
    fn answers_come_in_order_and_only_so_many_are_under_way() {
        let mut window = filled();
        assert_eq!(window.send(2).unwrap().offset, 0);
        assert_eq!(window.send(2).unwrap().offset, 3);
        assert_eq!(window.send(2), None);
        assert!(window.answered());
        assert_eq!(window.done().unwrap().positions(), [1, 2, 3]);
        assert_eq!(window.send(2).unwrap().offset, 8);
        assert_eq!(window.oldest(), Some(4));
    }

    #[test]
    fn a_failed_request_is_sent_again_with_those_behind_it_when_their_answers_have_come() {
        let mut window = filled();
        while window.send(3).is_some() {}
        assert!(window.answered());
        window.again();
        assert_eq!(window.send(3), None, "two answers are awaited");
        assert!(!window.answered());
        assert!(!window.is_drained());
        assert!(!window.answered());
        assert!(window.is_drained());
        let again: Vec<i64> =
            std::iter::from_fn(|| window.send(3).map(|append| append.offset)).collect();
        assert_eq!(again, [0, 3, 8]);
    }

    #[test]
    fn what_is_taken_out_moves_up_the_rest() {
        let mut window = filled();
        let taken = window.take_out(&[0, 2]);
        assert_eq!(taken.positions(), [3, 1]);
        assert_eq!(offsets(&window), [(0, 1), (1, 5), (6, 1)]);
        let all = window.take_out(&[0, 7]);
        assert_eq!(all.positions(), [2]);
        assert_eq!(offsets(&window), [(0, 5), (5, 1)]);
        assert_eq!(window.next_offset(), 6);
    }

    #[test]
    fn a_request_is_halved_down_to_a_row() {
        let mut window = filled();
        assert!(window.halve());
        assert_eq!(offsets(&window), [(0, 1), (1, 2), (3, 5), (8, 1)]);
        assert!(!window.halve());
    }

    #[test]
    fn a_new_stream_begins_behind_what_the_old_one_has_stored() {
        for (stored, done, left) in [
            (0, 0, vec![(0, 3), (3, 5), (8, 1)]),
            (2, 2, vec![(0, 1), (1, 5), (6, 1)]),
            (3, 3, vec![(0, 5), (5, 1)]),
            (4, 4, vec![(0, 4), (4, 1)]),
            (9, 9, vec![]),
        ] {
            let mut window = filled();
            assert_eq!(window.restart(stored).len(), done, "{stored} stored");
            assert_eq!(offsets(&window), left, "{stored} stored");
        }
    }

    #[derive(Debug, Clone)]
    enum Event {
        Push(u8),
        Send,
        Accept,
        Fail,
        Refuse(u8),
        Cut {
            arrived: bool,
        },
        /// Something that was under way when a connection was cut arrives.
        Late(u8),
        NewStream,
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            (1_u8..6).prop_map(Event::Push),
            Just(Event::Send),
            Just(Event::Accept),
            Just(Event::Fail),
            (0_u8..6).prop_map(Event::Refuse),
            any::<bool>().prop_map(|arrived| Event::Cut { arrived }),
            any::<u8>().prop_map(Event::Late),
            Just(Event::NewStream),
        ]
    }

    /// A server that keeps to offsets, requests under way on the connection, and those of earlier connections, which nobody gets an answer to.
    #[derive(Default)]
    struct Server {
        table: Vec<u64>,
        /// Rows of the table before this stream.
        before: usize,
        under_way: VecDeque<Append>,
        adrift: VecDeque<Append>,
    }

    impl Server {
        fn end(&self) -> i64 {
            i64::try_from(self.table.len() - self.before).unwrap()
        }

        /// Executes the oldest request as told; `true` when its rows are in.
        fn execute(&mut self, fails: bool) -> Option<(Append, bool)> {
            let append = self.under_way.pop_front()?;
            let stored = append.offset < self.end() || (append.offset == self.end() && !fails);
            if append.offset == self.end() && !fails {
                self.table.extend_from_slice(append.rows.positions());
            }
            Some((append, stored))
        }

        /// A new stream: what was sent to the old one is refused.
        fn restart(&mut self) {
            self.before = self.table.len();
            self.under_way.clear();
            self.adrift.clear();
        }

        fn arrive(&mut self, number: u8) {
            let at = usize::from(number) % self.adrift.len().max(1);
            if let Some(append) = self.adrift.remove(at)
                && append.offset == self.end()
            {
                self.table.extend_from_slice(append.rows.positions());
            }
        }
    }

    proptest! {
        #[test]
        fn whatever_happens_every_row_is_stored_once_and_in_order(events in proptest::collection::vec(event(), 0..200)) {
            let (mut window, mut server) = (Window::default(), Server::default());
            let (mut next, mut refused, mut done) = (1_u64, Vec::new(), Vec::new());
            for event in events.into_iter().chain(std::iter::repeat_n([Event::Send, Event::Accept], 600).flatten()) {
                match event {
                    Event::Push(len) => {
                        window.push(rows(next..next + u64::from(len)));
                        next += u64::from(len);
                    }
                    Event::Send => {
                        if let Some(append) = window.send(4) {
                            server.under_way.push_back(append.clone());
                        }
                    }
                    Event::Accept | Event::Fail | Event::Refuse(_) => {
                        let fails = !matches!(event, Event::Accept);
                        let at_end = server.under_way.front().is_some_and(|append| append.offset == server.end());
                        let Some((_, stored)) = server.execute(fails) else { continue };
                        if !window.answered() {
                            continue;
                        }
                        match event {
                            _ if stored => done.extend_from_slice(window.done().unwrap().positions()),
                            Event::Refuse(index) if at_end => {
                                window.again();
                                // Only what is drained may be numbered anew: the writer waits for the answers.
                                while !window.is_drained() {
                                    server.execute(true).unwrap();
                                    window.answered();
                                }
                                if window.may_renumber() {
                                    refused.extend_from_slice(window.take_out(&[usize::from(index)]).positions());
                                } else {
                                    done.extend_from_slice(window.restart(server.end()).positions());
                                    server.restart();
                                }
                            }
                            _ => window.again(),
                        }
                    }
                    Event::Cut { arrived } => {
                        // What is under way may still be executed: in its order now, or at any time later.
                        if arrived {
                            while server.execute(false).is_some() {}
                        }
                        let under_way = std::mem::take(&mut server.under_way);
                        server.adrift.extend(under_way);
                        window.disconnected();
                    }
                    Event::Late(number) => server.arrive(number),
                    Event::NewStream => {
                        done.extend_from_slice(window.restart(server.end()).positions());
                        server.restart();
                    }
                }
            }
            prop_assert!(window.is_empty());
            let expected: Vec<u64> = (1..next).filter(|position| !refused.contains(position)).collect();
            prop_assert_eq!(&server.table, &expected);
            prop_assert_eq!(&done, &expected);
        }
    }
}

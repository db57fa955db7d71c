//! How far one table of one partition is, and what the checkpoint has to say about it.
//!
//! Pure. A row is *assigned* to the table when it is made, in the order of positions, and rests in one of the table's streams, in
//! that order: the first stream holds the first so many, the next one the rest. So the number of rows up to a position is enough to tell
//! the offset in each stream at that position.

use std::collections::VecDeque;

use super::checkpoint::StreamAt;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Stream {
    name: String,
    /// Rows in it at the acknowledged position.
    offset: u64,
    /// Rows in it at its end; none yet: it is written to.
    end: Option<u64>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Progress {
    streams: VecDeque<Stream>,
    /// Positions of the rows behind the acknowledged position, in order.
    rows: VecDeque<u64>,
    /// How many rows that are made next are in a stream already: written before a crash.
    written: u64,
}

impl Progress {
    /// Takes up a stream of the checkpoint, in their order: finalized, with `end` rows.
    pub fn take_up(&mut self, at: &StreamAt, end: u64) {
        self.written += end.saturating_sub(at.offset);
        self.streams.push_back(Stream {
            name: at.stream.clone(),
            offset: at.offset.min(end),
            end: Some(end),
        });
    }

    /// A row of this position was made. `true`: it is in a stream already.
    pub fn assign(&mut self, position: u64) -> bool {
        self.rows.push_back(position);
        let known = self.written > 0;
        self.written = self.written.saturating_sub(1);
        known
    }

    /// How many rows that are made next are in a stream already.
    #[must_use]
    pub const fn written(&self) -> u64 {
        self.written
    }

    /// A gap in the positions, and everything before it is acknowledged: what was written before the crash beyond that came from
    /// messages that are no more. How many rows that are.
    pub fn gap(&mut self) -> u64 {
        self.streams.retain(|stream| stream.end.is_none());
        std::mem::take(&mut self.written)
    }

    /// A new stream takes what is assigned from now on, and what the one before has left.
    pub fn begin(&mut self, stream: &str) {
        self.streams.push_back(Stream {
            name: stream.to_owned(),
            offset: 0,
            end: None,
        });
    }

    /// The stream that is written to has ended with so many rows.
    pub fn end(&mut self, stream: &str, rows: u64) {
        if let Some(known) = self
            .streams
            .iter_mut()
            .rev()
            .find(|known| known.name == stream)
        {
            known.end = Some(rows);
        }
    }

    /// The rows of these positions are in no stream after all.
    pub fn refuse(&mut self, positions: &[u64]) {
        self.rows.retain(|row| !positions.contains(row));
    }

    /// Everything below `upto` is acknowledged.
    pub fn advance(&mut self, upto: u64) {
        let mut count = 0_u64;
        while self.rows.front().is_some_and(|row| *row < upto) {
            self.rows.pop_front();
            count += 1;
        }
        while let Some(stream) = self.streams.front_mut() {
            let room = stream
                .end
                .map_or(u64::MAX, |end| end.saturating_sub(stream.offset));
            let here = count.min(room);
            stream.offset += here;
            count -= here;
            // An ended stream that is acknowledged whole is of no use after a crash.
            if stream.end == Some(stream.offset) {
                self.streams.pop_front();
            } else {
                break;
            }
        }
    }

    /// Its streams, as [`Self::advance`] has left them.
    pub fn streams<'a>(&'a self, table: &'a str) -> impl Iterator<Item = StreamAt> + 'a {
        self.streams.iter().map(move |stream| StreamAt {
            table: table.to_owned(),
            stream: stream.name.clone(),
            offset: stream.offset,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(stream: &str, offset: u64) -> StreamAt {
        StreamAt {
            table: "t".to_owned(),
            stream: stream.to_owned(),
            offset,
        }
    }

    fn streams(progress: &Progress) -> Vec<StreamAt> {
        progress.streams("t").collect()
    }

    #[test]
    fn the_offset_at_a_position_is_the_number_of_rows_below_it() {
        let mut progress = Progress::default();
        progress.begin("a");
        for position in [3, 5, 8] {
            assert!(!progress.assign(position));
        }
        progress.advance(3);
        assert_eq!(streams(&progress), [at("a", 0)]);
        progress.advance(6);
        assert_eq!(streams(&progress), [at("a", 2)]);
        progress.refuse(&[8]);
        progress.advance(9);
        assert_eq!(streams(&progress), [at("a", 2)]);
    }

    #[test]
    fn what_was_written_before_a_crash_is_left_out_in_its_order() {
        let mut progress = Progress::default();
        progress.take_up(&at("a", 10), 12);
        progress.take_up(&at("b", 0), 1);
        let known: Vec<bool> = (1..=5).map(|position| progress.assign(position)).collect();
        assert_eq!(known, [true, true, true, false, false]);
        progress.begin("c");
        assert_eq!(streams(&progress), [at("a", 10), at("b", 0), at("c", 0)]);
        progress.advance(2);
        assert_eq!(streams(&progress), [at("a", 11), at("b", 0), at("c", 0)]);
        progress.advance(5);
        assert_eq!(streams(&progress), [at("c", 1)]);
    }

    #[test]
    fn a_stream_that_ended_on_the_way_gives_way_to_the_next() {
        let mut progress = Progress::default();
        progress.begin("a");
        for position in 1..=4 {
            progress.assign(position);
        }
        progress.end("a", 3);
        progress.begin("b");
        progress.assign(5);
        progress.advance(3);
        assert_eq!(streams(&progress), [at("a", 2), at("b", 0)]);
        progress.advance(6);
        assert_eq!(streams(&progress), [at("b", 2)]);
    }

    #[test]
    fn nothing_behind_a_gap_is_taken_for_written() {
        let mut progress = Progress::default();
        progress.take_up(&at("a", 0), 3);
        assert!(progress.assign(1));
        progress.advance(2);
        assert_eq!(progress.gap(), 2);
        assert_eq!(streams(&progress), []);
        assert!(!progress.assign(1 << 24));
    }
}

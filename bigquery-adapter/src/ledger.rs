//! What has to be remembered beside the rows so that a message is neither lost nor stored twice.
//!
//! It changes only by what is stored with the rows, in the same commit: after a crash, rows and ledger are of one
//! moment. Pure; the sink keeps one, and the source begins with a copy of it.
//!
//! * **QoS 2.** A packet id is taken from the commit of its row until the commit of its release. A publish under a
//!   taken id is the same message again. This is the receiver's half of MQTT's exactly-once delivery, kept on disk.
//! * **QoS 1.** After a crash nobody knows whether the last acknowledgements have arrived. The last rows are
//!   remembered, as many as may be unacknowledged, so that a message that comes again can get its old number.

use std::collections::{BTreeMap, VecDeque};

use crate::batch::Entry;
use crate::encoding::{Reader, put_bytes, put_varint};
use crate::error::EncodingError;
use crate::row::Delivery;

/// What is known of a stored message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// Its number.
    pub number: u64,
    /// Its [fingerprint](crate::row::fingerprint).
    pub fingerprint: u64,
}

/// The state of the source as of the last commit. At most 65,535 taken packet ids and `window` recent ones, 24 bytes each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ledger {
    next_number: u64,
    taken: BTreeMap<u16, Known>,
    recent: VecDeque<(u16, Known)>,
    filters: Vec<String>,
    /// By tap and partition: first position that is not stored.
    stored: BTreeMap<(String, u16), u64>,
    window: usize,
}

impl Ledger {
    /// An empty ledger. `window`: how many QoS 1 messages may be unacknowledged at a time.
    #[must_use]
    pub fn new(window: u16) -> Self {
        Self {
            next_number: 1,
            taken: BTreeMap::new(),
            recent: VecDeque::new(),
            filters: Vec::new(),
            stored: BTreeMap::new(),
            window: usize::from(window),
        }
    }

    /// Number of the next message.
    #[must_use]
    pub const fn next_number(&self) -> u64 {
        self.next_number
    }

    /// Packet ids of stored QoS 2 messages that have not been released.
    #[must_use]
    pub const fn taken(&self) -> &BTreeMap<u16, Known> {
        &self.taken
    }

    /// The last QoS 1 messages by number. A packet id may occur more than once; the last one counts.
    pub fn recent(&self) -> impl Iterator<Item = (u16, Known)> {
        self.recent.iter().copied()
    }

    /// Filters that the session was last subscribed to.
    #[must_use]
    pub fn filters(&self) -> &[String] {
        &self.filters
    }

    /// First position of a partition of a tap that is not stored, if anything of it is.
    #[must_use]
    pub fn stored(&self, tap: &str, partition: u16) -> Option<u64> {
        self.stored.get(&(tap.to_owned(), partition)).copied()
    }

    /// The same for all partitions of a tap of which something is stored.
    pub fn stored_of(&self, tap: &str) -> impl Iterator<Item = (u16, u64)> {
        let from = (tap.to_owned(), 0)..=(tap.to_owned(), u16::MAX);
        let stored = self.stored.range(from);
        stored.map(|((_, partition), position)| (*partition, *position))
    }

    /// Takes in a stored entry.
    ///
    /// # Errors
    /// When the entry's bytes are not what the adapter writes.
    pub fn apply(&mut self, entry: &Entry<'_>) -> Result<(), EncodingError> {
        match entry {
            Entry::Row(row) => {
                let identity = row.identity()?;
                // What comes from a tap is known by its position.
                if identity.origin.is_some() {
                    return Ok(());
                }
                let known = Known {
                    number: identity.number,
                    fingerprint: identity.fingerprint,
                };
                match identity.delivery {
                    Delivery::AtMostOnce => {}
                    Delivery::AtLeastOnce(id) => self.remember(id, known),
                    Delivery::ExactlyOnce(id) => {
                        self.taken.insert(id, known);
                    }
                }
                self.next_number = self.next_number.max(identity.number.saturating_add(1));
            }
            Entry::Stored(stored) => {
                let key = (stored.tap.to_owned(), stored.partition);
                self.stored.insert(key, stored.position);
            }
            Entry::Released(id) => {
                self.taken.remove(id);
            }
            Entry::SessionReset => {
                self.taken.clear();
                self.recent.clear();
                self.filters.clear();
            }
            Entry::Subscribed(filters) => {
                self.filters = filters.iter().map(str::to_owned).collect()
            }
        }
        Ok(())
    }

    /// Keeps the newest by number, which is the order in which the broker sent them. Acknowledgements go out in that
    /// order, so what is unacknowledged is always at its end; a message that came again has its old place.
    fn remember(&mut self, id: u16, known: Known) {
        match self.recent.back() {
            Some((_, newest)) if newest.number >= known.number => {
                match self
                    .recent
                    .binary_search_by_key(&known.number, |(_, recent)| recent.number)
                {
                    Ok(_) => return,
                    Err(place) => self.recent.insert(place, (id, known)),
                }
            }
            _ => self.recent.push_back((id, known)),
        }
        while self.recent.len() > self.window.max(1) {
            self.recent.pop_front();
        }
    }

    /// Appends the whole state.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_varint(out, self.next_number);
        put_varint(out, self.taken.len() as u64);
        for (id, known) in &self.taken {
            put_known(out, *id, *known);
        }
        put_varint(out, self.recent.len() as u64);
        for (id, known) in &self.recent {
            put_known(out, *id, *known);
        }
        put_varint(out, self.filters.len() as u64);
        for filter in &self.filters {
            put_bytes(out, filter.as_bytes());
        }
        put_varint(out, self.stored.len() as u64);
        for ((tap, partition), position) in &self.stored {
            put_bytes(out, tap.as_bytes());
            put_varint(out, u64::from(*partition));
            put_varint(out, *position);
        }
    }

    /// Reads what [`Ledger::encode`] has written, all of `bytes`; keeps the newest `window` QoS 1 messages.
    ///
    /// # Errors
    /// When the bytes are not such a state.
    pub fn decode(bytes: &[u8], window: u16) -> Result<Self, EncodingError> {
        let mut reader = Reader::new(bytes);
        let mut ledger = Self::new(window);
        let next_number = reader.varint()?;
        for _ in 0..reader.varint()? {
            let (id, known) = known(&mut reader)?;
            ledger.taken.insert(id, known);
        }
        for _ in 0..reader.varint()? {
            let (id, known) = known(&mut reader)?;
            ledger.remember(id, known);
        }
        for _ in 0..reader.varint()? {
            ledger.filters.push(reader.text()?.to_owned());
        }
        // Versions without taps end here.
        if !reader.is_empty() {
            for _ in 0..reader.varint()? {
                let tap = reader.text()?.to_owned();
                let partition =
                    u16::try_from(reader.varint()?).map_err(|_| EncodingError::Length)?;
                let position = reader.varint()?;
                ledger.stored.insert((tap, partition), position);
            }
        }
        reader.end()?;
        ledger.next_number = next_number;
        Ok(ledger)
    }
}

fn put_known(out: &mut Vec<u8>, id: u16, known: Known) {
    out.extend_from_slice(&id.to_le_bytes());
    out.extend_from_slice(&known.number.to_le_bytes());
    out.extend_from_slice(&known.fingerprint.to_le_bytes());
}

fn known(reader: &mut Reader<'_>) -> Result<(u16, Known), EncodingError> {
    let id = u16::from_le_bytes(reader.array()?);
    let number = u64::from_le_bytes(reader.array()?);
    let fingerprint = u64::from_le_bytes(reader.array()?);
    Ok((
        id,
        Known {
            number,
            fingerprint,
        },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{Batch, StoredUpto, entries};
    use crate::row::{Row, UserProperties};

    fn row(number: u64, delivery: Delivery) -> Row<'static> {
        Row {
            origin: None,
            received_at: 0,
            number,
            delivery,
            fingerprint: number * 100,
            retain: false,
            topic: "t",
            payload: b"",
            client_id: None,
            tenant: None,
            device_id: None,
            content_type: None,
            response_topic: None,
            correlation_data: None,
            user_properties: UserProperties::default(),
        }
    }

    fn applied(window: u16, fill: impl FnOnce(&mut Batch)) -> Ledger {
        let mut batch = Batch::default();
        fill(&mut batch);
        let mut ledger = Ledger::new(window);
        for entry in entries(batch.as_bytes()) {
            ledger.apply(&entry.unwrap()).unwrap();
        }
        ledger
    }

    #[test]
    fn a_packet_id_is_taken_from_its_row_to_its_release() {
        let ledger = applied(10, |batch| {
            batch.push_row(1, &row(1, Delivery::ExactlyOnce(5)));
            batch.push_row(2, &row(2, Delivery::ExactlyOnce(6)));
            batch.push_released(3, 5);
        });
        assert_eq!(ledger.taken().keys().copied().collect::<Vec<_>>(), [6]);
        assert_eq!(ledger.next_number(), 3);
    }

    #[test]
    fn as_many_qos_1_messages_are_remembered_as_may_be_unacknowledged() {
        let ledger = applied(2, |batch| {
            for number in 1..=4 {
                batch.push_row(number, &row(number, Delivery::AtLeastOnce(number as u16)));
            }
        });
        assert_eq!(
            ledger
                .recent()
                .map(|(id, known)| (id, known.number))
                .collect::<Vec<_>>(),
            [(3, 3), (4, 4)]
        );
    }

    #[test]
    fn a_lost_session_clears_everything_but_the_numbers() {
        let ledger = applied(2, |batch| {
            batch.push_subscribed(1, ["a"].into_iter());
            batch.push_row(2, &row(1, Delivery::ExactlyOnce(5)));
            batch.push_row(3, &row(2, Delivery::AtLeastOnce(6)));
            batch.push_session_reset(4);
        });
        assert!(
            ledger.taken().is_empty()
                && ledger.recent().next().is_none()
                && ledger.filters().is_empty()
        );
        assert_eq!(ledger.next_number(), 3);
    }

    #[test]
    fn a_snapshot_reads_back_as_it_was_written_and_short_ones_are_refused() {
        let ledger = applied(8, |batch| {
            batch.push_subscribed(1, ["a/#", "b"].into_iter());
            batch.push_row(2, &row(7, Delivery::ExactlyOnce(5)));
            batch.push_row(3, &row(8, Delivery::AtLeastOnce(6)));
            for position in [6, 9] {
                let stored = StoredUpto {
                    tap: "warehouse",
                    partition: 3,
                    position,
                };
                batch.push_stored(4, stored);
            }
        });
        assert_eq!(ledger.stored("warehouse", 3), Some(9));
        let mut bytes = Vec::new();
        ledger.encode(&mut bytes);
        assert_eq!(Ledger::decode(&bytes, 8).unwrap(), ledger);
        // Without what follows the filters it is what a version without taps has written.
        let old = bytes.len() - (1 + 1 + "warehouse".len() + 1 + 1);
        for end in 0..bytes.len() {
            assert_eq!(
                Ledger::decode(&bytes[..end], 8).is_err(),
                end != old,
                "{end}"
            );
        }
    }
}

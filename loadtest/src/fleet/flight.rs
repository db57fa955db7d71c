//! The messages a device has in flight: pure state, no input or output.
//!
//! Entries are kept in the order in which they were published. Those before `sent` have gone out on this
//! connection; after a new connection none have, and [`Flight::poll_send`] gives them again from the front.
//! That is all there is to resending, and it respects the broker's receive maximum.

use std::collections::VecDeque;

use dunlin_protocol::{PacketId, QoS, ReasonCode};
use tokio::time::Instant;

/// How far a message has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Its PUBLISH is to be answered.
    Publish,
    /// QoS 2: the broker has it (PUBREC); its PUBREL is to be answered.
    Release,
}

/// One message in flight.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) id: PacketId,
    pub(crate) stage: Stage,
    pub(crate) payload: Box<[u8]>,
    pub(crate) due: Instant,
    pub(crate) sent_before: bool,
}

/// What an acknowledgement means.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The message is done; it was due then.
    Done { due: Instant, nobody: bool },
    /// The broker refused it for good.
    Refused(ReasonCode),
    /// Send a PUBREL.
    Release,
    /// It fits nothing that is in flight.
    Unexpected,
}

/// Bounded by `window`.
#[derive(Debug)]
pub(crate) struct Flight {
    entries: VecDeque<Pending>,
    sent: usize,
    window: usize,
    next_id: u16,
}

impl Flight {
    pub(crate) fn new(window: u16) -> Self {
        Self {
            entries: VecDeque::new(),
            sent: 0,
            window: usize::from(window.max(1)),
            next_id: 0,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn has_room(&self) -> bool {
        self.entries.len() < self.window
    }

    /// A new connection: nothing has gone out on it, and this many may be.
    pub(crate) fn reconnected(&mut self, window: u16) {
        self.sent = 0;
        self.window = usize::from(window.max(1));
    }

    /// Takes a message up; to be called only while there is room.
    pub(crate) fn publish(&mut self, payload: Box<[u8]>, due: Instant) {
        let id = self.free_id();
        self.entries.push_back(Pending {
            id,
            stage: Stage::Publish,
            payload,
            due,
            sent_before: false,
        });
    }

    /// The next packet to send on this connection: a PUBLISH (with DUP where it was sent before) or, in
    /// stage `Release`, a PUBREL. `None` when all are out or the window is full.
    pub(crate) fn poll_send(&mut self) -> Option<(&Pending, bool)> {
        if self.sent >= self.window {
            return None;
        }
        let entry = self.entries.get_mut(self.sent)?;
        self.sent += 1;
        let again = entry.sent_before;
        entry.sent_before = true;
        Some((entry, again))
    }

    /// PUBACK (QoS 1) or PUBREC (QoS 2).
    pub(crate) fn handle_received(&mut self, id: PacketId, reason: ReasonCode, qos: QoS) -> Answer {
        let Some(place) = self.find(id) else {
            return Answer::Unexpected;
        };
        if reason.is_error() {
            self.remove(place);
            return Answer::Refused(reason);
        }
        match (qos, self.entries.get_mut(place)) {
            (QoS::ExactlyOnce, Some(entry)) => {
                entry.stage = Stage::Release;
                // The broker has it: it will not be needed again.
                entry.payload = Box::default();
                Answer::Release
            }
            (_, Some(entry)) if entry.stage == Stage::Publish => {
                let nobody = reason == ReasonCode::NO_MATCHING_SUBSCRIBERS;
                let due = entry.due;
                self.remove(place);
                Answer::Done { due, nobody }
            }
            _ => Answer::Unexpected,
        }
    }

    /// PUBCOMP. An unknown packet id (0x92) ends the exchange too: the broker had forgotten the id after it
    /// had taken the message over.
    pub(crate) fn handle_complete(&mut self, id: PacketId) -> Answer {
        match self.find(id).and_then(|place| {
            self.entries
                .get(place)
                .map(|entry| (place, entry.stage, entry.due))
        }) {
            Some((place, Stage::Release, due)) => {
                self.remove(place);
                Answer::Done { due, nobody: false }
            }
            _ => Answer::Unexpected,
        }
    }

    fn find(&self, id: PacketId) -> Option<usize> {
        // Acknowledgements come in order: mostly this is the first.
        self.entries
            .iter()
            .take(self.sent)
            .position(|entry| entry.id == id)
    }

    fn remove(&mut self, place: usize) {
        self.entries.remove(place);
        self.sent -= usize::from(place < self.sent);
    }

    fn free_id(&mut self) -> PacketId {
        loop {
            self.next_id = self.next_id.wrapping_add(1);
            // Ends: the window is below 65,535, so some id is free.
            if let Some(id) = PacketId::new(self.next_id)
                .filter(|id| self.entries.iter().all(|entry| entry.id != *id))
            {
                return id;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flight(window: u16, messages: u8) -> Flight {
        let mut flight = Flight::new(window);
        for number in 0..messages {
            flight.publish(Box::new([number]), Instant::now());
        }
        flight
    }

    fn send_all(flight: &mut Flight) -> Vec<(u16, bool, Stage)> {
        std::iter::from_fn(|| {
            flight
                .poll_send()
                .map(|(entry, again)| (entry.id.get(), again, entry.stage))
        })
        .collect()
    }

    fn id(number: u16) -> PacketId {
        PacketId::new(number).unwrap()
    }

    #[test]
    fn the_window_bounds_what_is_in_flight() {
        let mut flight = flight(2, 2);
        assert!(!flight.has_room());
        send_all(&mut flight);
        flight.handle_received(id(1), ReasonCode::SUCCESS, QoS::AtLeastOnce);
        assert!(flight.has_room());
    }

    #[test]
    fn after_a_reconnect_the_unacknowledged_go_out_again_in_order_with_dup() {
        let mut flight = flight(10, 4);
        assert_eq!(send_all(&mut flight).len(), 4);
        flight.handle_received(id(2), ReasonCode::SUCCESS, QoS::AtLeastOnce);
        flight.reconnected(10);
        flight.publish(Box::new([9]), Instant::now());
        let sent = send_all(&mut flight);
        assert_eq!(
            sent.iter()
                .map(|(id, again, _)| (*id, *again))
                .collect::<Vec<_>>(),
            [(1, true), (3, true), (4, true), (5, false)]
        );
    }

    #[test]
    fn a_smaller_receive_maximum_holds_back_what_is_sent_again() {
        let mut flight = flight(10, 4);
        send_all(&mut flight);
        flight.reconnected(2);
        assert_eq!(send_all(&mut flight).len(), 2);
        flight.handle_received(id(1), ReasonCode::SUCCESS, QoS::AtLeastOnce);
        assert_eq!(send_all(&mut flight), [(3, true, Stage::Publish)]);
    }

    #[test]
    fn qos_2_is_done_at_pubcomp_and_resumes_with_pubrel() {
        let mut flight = flight(10, 2);
        send_all(&mut flight);
        assert_eq!(
            flight.handle_received(id(1), ReasonCode::SUCCESS, QoS::ExactlyOnce),
            Answer::Release
        );
        flight.reconnected(10);
        assert_eq!(
            send_all(&mut flight),
            [(1, true, Stage::Release), (2, true, Stage::Publish)]
        );
        assert!(matches!(flight.handle_complete(id(1)), Answer::Done { .. }));
        assert_eq!(flight.handle_complete(id(2)), Answer::Unexpected);
        assert_eq!(flight.len(), 1);
    }

    #[test]
    fn an_acknowledgement_of_what_was_not_sent_is_unexpected() {
        let mut flight = flight(10, 1);
        assert_eq!(
            flight.handle_received(id(1), ReasonCode::SUCCESS, QoS::AtLeastOnce),
            Answer::Unexpected
        );
        send_all(&mut flight);
        assert_eq!(
            flight.handle_received(id(7), ReasonCode::SUCCESS, QoS::AtLeastOnce),
            Answer::Unexpected
        );
    }

    #[test]
    fn a_refusal_ends_the_message() {
        let mut flight = flight(10, 1);
        send_all(&mut flight);
        assert_eq!(
            flight.handle_received(id(1), ReasonCode::QUOTA_EXCEEDED, QoS::AtLeastOnce),
            Answer::Refused(ReasonCode::QUOTA_EXCEEDED)
        );
        assert!(flight.is_empty());
    }

    #[test]
    fn ids_of_messages_in_flight_are_not_given_again() {
        let mut flight = flight(3, 1);
        send_all(&mut flight);
        for _ in 0..70_000_u32 {
            flight.publish(Box::new([]), Instant::now());
            let (entry, _) = flight.poll_send().unwrap();
            let newest = entry.id;
            assert_ne!(newest, id(1));
            flight.handle_received(newest, ReasonCode::SUCCESS, QoS::AtLeastOnce);
        }
    }
}

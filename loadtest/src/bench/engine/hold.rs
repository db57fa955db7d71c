//! Few connections that hold many subscriptions.

use std::time::{Duration, Instant};

use dunlin_protocol::{Packet, PacketId, Subscribe, SubscribeFiltersBuf, SubscribeOptions};

use super::{Engine, Failure, Outcome};

/// Packets of one connection that are not answered yet.
const UNANSWERED: usize = 50;

/// How far the connections are, by number.
#[derive(Debug, Default)]
pub(super) struct Held {
    asked: Vec<usize>,
    pub(super) answered: Vec<usize>,
}

impl Engine {
    /// Subscribes to all filters, one in a packet; or to some, when nothing is answered for `patience`. How many
    /// that were.
    pub(crate) fn hold_all(&mut self, patience: Duration) -> Outcome<usize> {
        let (_, connections) = self.workload.ends();
        self.held = Held {
            asked: vec![0; connections],
            answered: vec![0; connections],
        };
        let all = self.workload.clients;
        let (mut before, mut progress) = (0, Instant::now());
        loop {
            for number in 0..connections {
                self.ask(number, connections)?;
            }
            let done = self.held.answered.iter().sum();
            if done > before {
                (before, progress) = (done, Instant::now());
            }
            if done >= all || progress.elapsed() > patience {
                return Ok(done);
            }
            self.flush()?;
            self.turn(Duration::from_millis(20))?;
        }
    }

    /// Filter number `number`, and every so many after it, are this connection's.
    fn ask(&mut self, number: usize, connections: usize) -> Outcome<()> {
        loop {
            let of = |list: &[usize]| list.get(number).copied().unwrap_or(0);
            let (asked, answered) = (of(&self.held.asked), of(&self.held.answered));
            let filter = number + asked * connections;
            if filter >= self.workload.clients || asked - answered >= UNANSWERED {
                return Ok(());
            }
            // Above what is unanswered, below what an id can be.
            let id = u16::try_from(asked % 60_000 + 1).ok();
            let Some(packet_id) = id.and_then(PacketId::new) else {
                return Ok(());
            };
            let mut filters = SubscribeFiltersBuf::new();
            filters
                .push(
                    &self.workload.filter(filter),
                    SubscribeOptions::new(self.qos),
                )
                .map_err(|problem| Failure::Protocol(problem.to_string()))?;
            let subscribe = Packet::Subscribe(Subscribe {
                packet_id,
                properties: Default::default(),
                filters: filters.as_filters(),
            });
            self.send(number, &subscribe)?;
            if let Some(asked) = self.held.asked.get_mut(number) {
                *asked += 1;
            }
        }
    }
}

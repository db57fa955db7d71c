//! What was promised, and what came of it.

use std::collections::BTreeMap;

use crate::tap::Warehouse;

/// Milliseconds of virtual time.
pub(crate) type Ms = u64;

/// How many receivers of one message may see it, and what came of a will.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Exactly(u32),
    AtMost(u32),
}

#[derive(Debug, Default)]
struct Sent {
    at: Ms,
    acknowledged: Option<Ms>,
    /// Its publisher came back without an answer and sent it again.
    again: bool,
}

/// A connection of a subscriber whose session ends with it.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    pub(crate) group: usize,
    pub(crate) from: Ms,
    pub(crate) to: Ms,
    /// Its replica was cut off from Redis meanwhile: nothing is promised.
    pub(crate) troubled: bool,
    pub(crate) got: BTreeMap<(usize, u32), u32>,
}

#[derive(Debug)]
struct Receiver {
    group: usize,
    exactly_once: bool,
    got: BTreeMap<(usize, u32), u32>,
    /// When each came first.
    first: BTreeMap<(usize, u32), Ms>,
    newest: BTreeMap<usize, u32>,
    /// Connections that nothing disturbed: from, to.
    stays: Vec<(Ms, Ms)>,
}

/// A shared group, and which of its members got what.
#[derive(Debug, Default)]
struct SharedGroup {
    groups: Vec<usize>,
    exactly_once: bool,
    got: BTreeMap<(usize, u32), Vec<String>>,
}

#[derive(Debug, Default)]
pub(crate) struct Oracle {
    calm: bool,
    /// By publisher and number; the group and whether it publishes at QoS 2.
    sent: BTreeMap<(usize, u32), Sent>,
    publishers: BTreeMap<usize, (usize, bool)>,
    receivers: BTreeMap<String, Receiver>,
    windows: Vec<Window>,
    shared: BTreeMap<&'static str, SharedGroup>,
    lives: BTreeMap<String, Fate>,
    wills: BTreeMap<(String, String), u32>,
    will_receivers: Vec<String>,
    pub(crate) retained: BTreeMap<usize, u32>,
    pub(crate) warehouse: Warehouse,
    pub(crate) broken: Vec<String>,
    pub(crate) duplicates: u64,
}

/// A connected subscriber must have a message so long after it was acknowledged, if it is still there.
const SOON: Ms = 15_000;

impl Oracle {
    pub(crate) fn new(calm: bool) -> Self {
        Self {
            calm,
            ..Self::default()
        }
    }

    pub(crate) fn publisher(&mut self, publisher: usize, group: usize, exactly_once: bool) {
        self.publishers.insert(publisher, (group, exactly_once));
    }

    pub(crate) fn receiver(&mut self, client: &str, group: usize, exactly_once: bool) {
        self.receivers.insert(
            client.to_owned(),
            Receiver {
                group,
                exactly_once,
                got: BTreeMap::new(),
                first: BTreeMap::new(),
                newest: BTreeMap::new(),
                stays: Vec::new(),
            },
        );
    }

    pub(crate) fn will_receiver(&mut self, client: &str) {
        self.will_receivers.push(client.to_owned());
    }

    pub(crate) fn sent(&mut self, publisher: usize, number: u32, now: Ms) {
        let sent = self.sent.entry((publisher, number)).or_default();
        if sent.at == 0 {
            sent.at = now;
        }
    }

    pub(crate) fn sent_again(&mut self, publisher: usize, number: u32) {
        if let Some(sent) = self.sent.get_mut(&(publisher, number)) {
            sent.again = true;
        }
    }

    /// Whether a receiver may see a message twice although nothing failed: at QoS 1, when it was sent twice.
    fn may_repeat(&self, publisher: usize, number: u32) -> bool {
        let exactly_once = self.publishers.get(&publisher).is_some_and(|p| p.1);
        let sent = self.sent.get(&(publisher, number));
        !exactly_once && sent.is_some_and(|sent| sent.again)
    }

    pub(crate) fn acknowledged(&mut self, publisher: usize, number: u32, now: Ms) {
        if let Some(sent) = self.sent.get_mut(&(publisher, number)) {
            sent.acknowledged.get_or_insert(now);
        }
    }

    /// A persistent session got a message; repetitions that MQTT itself shows are left out before.
    pub(crate) fn received(&mut self, client: &str, publisher: usize, number: u32, now: Ms) {
        let may_repeat = self.may_repeat(publisher, number);
        let Some(receiver) = self.receivers.get_mut(client) else {
            return;
        };
        let count = receiver.got.entry((publisher, number)).or_default();
        *count += 1;
        if *count > 1 {
            self.duplicates += 1;
            let twice = self.publishers.get(&publisher).is_some_and(|p| p.1);
            if (twice && receiver.exactly_once) || (self.calm && !may_repeat) {
                self.broken.push(format!(
                    "{client} got message {number} of publisher {publisher} {count} times"
                ));
            }
            return;
        }
        receiver.first.insert((publisher, number), now);
        let newest = receiver.newest.entry(publisher).or_default();
        if number < *newest {
            self.broken.push(format!(
                "{client} got message {number} of publisher {publisher} after {newest}"
            ));
        }
        *newest = number.max(*newest);
    }

    /// A persistent session's connection is over, and its replica was never cut off from Redis.
    pub(crate) fn stayed(&mut self, client: &str, from: Ms, to: Ms) {
        if let Some(receiver) = self.receivers.get_mut(client)
            && from + SOON <= to
        {
            receiver.stays.push((from, to));
        }
    }

    pub(crate) fn window(&mut self, window: Window) {
        self.windows.push(window);
    }

    /// Each message of the publishers of `groups` is to come to a member of `share`; with `exactly_once` to one.
    pub(crate) fn shared_group(
        &mut self,
        share: &'static str,
        groups: &[usize],
        exactly_once: bool,
    ) {
        let shared = self.shared.entry(share).or_default();
        shared.groups = groups.to_vec();
        shared.exactly_once = exactly_once;
    }

    pub(crate) fn received_shared(
        &mut self,
        share: &'static str,
        client: &str,
        publisher: usize,
        number: u32,
    ) {
        let shared = self.shared.entry(share).or_default();
        let got = shared.got.entry((publisher, number)).or_default();
        got.push(client.to_owned());
    }

    pub(crate) fn life(&mut self, will: &str, fate: Fate) {
        self.lives.insert(will.to_owned(), fate);
    }

    pub(crate) fn received_will(&mut self, client: &str, will: &str) {
        *self
            .wills
            .entry((client.to_owned(), will.to_owned()))
            .or_default() += 1;
    }

    pub(crate) fn breach(&mut self, text: String) {
        self.broken.push(text);
    }

    /// Whether everything that must come has come.
    pub(crate) fn is_complete(&self) -> bool {
        self.missing().is_empty()
    }

    fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        for ((publisher, number), sent) in &self.sent {
            if sent.acknowledged.is_none() {
                missing.push(format!(
                    "message {number} of publisher {publisher} was never acknowledged"
                ));
                continue;
            }
            let group = self.publishers.get(publisher).map(|p| p.0);
            for (client, receiver) in &self.receivers {
                if Some(receiver.group) == group
                    && !receiver.got.contains_key(&(*publisher, *number))
                {
                    missing.push(format!(
                        "{client} never got message {number} of publisher {publisher}, acknowledged at {:?} ms",
                        sent.acknowledged
                    ));
                }
            }
            if !self.warehouse.rows.contains_key(&(*publisher, *number)) {
                missing.push(format!(
                    "the warehouse never got message {number} of publisher {publisher}, acknowledged at {:?} ms",
                    sent.acknowledged
                ));
            }
            for (share, shared) in &self.shared {
                if group.is_some_and(|group| shared.groups.contains(&group))
                    && !shared.got.contains_key(&(*publisher, *number))
                {
                    missing.push(format!(
                        "no member of {share} got message {number} of publisher {publisher}, acknowledged at {:?} ms",
                        sent.acknowledged
                    ));
                }
            }
        }
        for (will, fate) in &self.lives {
            for client in &self.will_receivers {
                let got = self.wills.get(&(client.clone(), will.clone())).copied();
                if let Fate::Exactly(count) = fate
                    && got.unwrap_or(0) < *count
                {
                    missing.push(format!("{client} never got will {will}"));
                }
            }
        }
        missing
    }

    /// Everything that is not as promised.
    pub(crate) fn verdict(&mut self) -> Vec<String> {
        let mut broken = std::mem::take(&mut self.broken);
        broken.extend(self.missing());
        broken.append(&mut self.warehouse.broken);
        for ((publisher, number), rows) in &self.warehouse.rows {
            let exactly_once = self.publishers.get(publisher).is_some_and(|p| p.1);
            if *rows > 1 && (exactly_once || (self.calm && !self.may_repeat(*publisher, *number))) {
                broken.push(format!(
                    "the warehouse got message {number} of publisher {publisher} {rows} times"
                ));
            }
        }
        for ((client, will), count) in &self.wills {
            let most = match self.lives.get(will) {
                Some(Fate::Exactly(most) | Fate::AtMost(most)) => *most,
                None => 1,
            };
            if *count > most {
                broken.push(format!(
                    "{client} got will {will} {count} times, not {most}"
                ));
            }
        }
        for (client, receiver) in &self.receivers {
            for (from, to) in &receiver.stays {
                for ((publisher, number), sent) in &self.sent {
                    let due = sent.acknowledged.is_some_and(|at| at + SOON <= *to);
                    let wanted =
                        self.publishers.get(publisher).map(|p| p.0) == Some(receiver.group);
                    let first = receiver.first.get(&(*publisher, *number));
                    if due && wanted && first.is_some_and(|first| first > to) {
                        broken.push(format!(
                            "{client} was connected from {from} to {to} ms and got message {number} of publisher {publisher} at {first:?}, acknowledged at {:?}",
                            sent.acknowledged
                        ));
                    }
                }
            }
        }
        for (index, window) in self.windows.iter().enumerate() {
            if window.troubled {
                continue;
            }
            for ((publisher, number), sent) in &self.sent {
                let Some(acknowledged) = sent.acknowledged else {
                    continue;
                };
                let group = self.publishers.get(publisher).map(|p| p.0);
                if group == Some(window.group)
                    && sent.at > window.from
                    && acknowledged + SOON <= window.to
                    && !window.got.contains_key(&(*publisher, *number))
                {
                    broken.push(format!(
                        "clean subscriber (window {index}, {} to {} ms) missed message {number} of publisher {publisher}, sent at {} and acknowledged at {acknowledged} ms",
                        window.from, window.to, sent.at
                    ));
                }
            }
        }
        if self.calm {
            for ((publisher, number), count) in self.windows.iter().flat_map(|window| &window.got) {
                if *count != 1 && !self.may_repeat(*publisher, *number) {
                    broken.push(format!(
                        "a clean subscriber got message {number} of publisher {publisher} {count} times"
                    ));
                }
            }
        }
        for (share, shared) in &self.shared {
            for ((publisher, number), members) in &shared.got {
                // A replica that dies with a publish may have given it to a member already: if its publisher
                // sends it again, the group can get it twice, each member once.
                let again = self.sent.get(&(*publisher, *number));
                let again = !self.calm && again.is_some_and(|sent| sent.again);
                if shared.exactly_once && members.len() > 1 && !again {
                    broken.push(format!(
                        "{share} got message {number} of publisher {publisher} more than once: {members:?}"
                    ));
                }
            }
        }
        broken
    }

    pub(crate) fn counts(&self) -> (u64, u64, u64) {
        let published = self.sent.len() as u64;
        let acknowledged = self
            .sent
            .values()
            .filter(|sent| sent.acknowledged.is_some())
            .count() as u64;
        let delivered = self
            .receivers
            .values()
            .map(|receiver| {
                receiver
                    .got
                    .values()
                    .map(|count| u64::from(*count))
                    .sum::<u64>()
            })
            .sum();
        (published, acknowledged, delivered)
    }
}

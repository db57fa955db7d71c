//! What to measure.

use std::time::Duration;

use dunlin_protocol::{QoS, Version};
use serde::Serialize;

use super::stamp::STAMP_BYTES;
use crate::error::Error;

/// Who sends to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shape {
    /// Many publishers, each with a topic, one subscriber to all of them.
    FanIn,
    /// One publisher, many subscribers to its topic.
    FanOut,
    /// Each publisher has a topic and a subscriber of its own.
    Pairs,
    /// Many publishers, each with a topic, and no subscriber: what is acknowledged counts as delivered, as a tap has it.
    Tap,
    /// Connections that do nothing.
    Idle,
}

/// How much is sent.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Load {
    /// Every publisher keeps so many messages in flight; `None` for the default of the QoS.
    Window(Option<u16>),
    /// So many messages per second in all, whatever comes back.
    Rate(f64),
    /// One message in all: the next when it has arrived and is acknowledged.
    One,
}

/// One measurement.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Workload {
    /// Who sends to whom.
    pub shape: Shape,
    /// Publishers, subscribers, pairs or idle connections: of which there are many.
    pub clients: usize,
    /// 0, 1 or 2.
    pub qos: u8,
    /// How much is sent.
    pub load: Load,
    /// Whether the sessions of subscribers outlive their connections: what is theirs is written to the store.
    pub persistent: bool,
}

/// What holds for all measurements of a run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What to measure, in this order.
    pub workloads: Vec<Workload>,
    /// How often each is measured on each broker.
    pub runs: usize,
    /// MQTT version.
    pub version: Version,
    /// Bytes of a payload, at least 20.
    pub payload_bytes: usize,
    /// Time before measuring begins.
    pub warm_up: Duration,
    /// Time that is measured.
    pub measure: Duration,
    /// How long messages may take to arrive after the last was sent, while none does.
    pub drain: Duration,
    /// Connections per source address (127.0.0.2 and up): ports run out near 28,000.
    pub per_source: usize,
    /// QoS 1 and 2: the window counts what is delivered, too, and not only what is acknowledged.
    pub bound_by_delivery: bool,
    /// Processors for the broker and for this process; `None` leaves both to the scheduler.
    pub pinned: Option<(usize, usize)>,
}

/// What the processes of a role may cost.
#[derive(Debug, Clone, PartialEq)]
pub struct CostLimit {
    /// The role, or [`ALL`](Self::ALL).
    pub role: String,
    /// CPU time per delivered message, in microseconds.
    pub cpu_us: f64,
}

impl CostLimit {
    /// All roles together.
    pub const ALL: &str = "all";
}

impl std::str::FromStr for CostLimit {
    type Err = String;

    /// `redis=0.05`
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not ROLE=MICROSECONDS, such as redis=0.05");
        let (role, cost) = text.split_once('=').ok_or_else(wrong)?;
        let cpu_us: f64 = cost.parse().map_err(|_| wrong())?;
        if role.is_empty() || !(cpu_us >= 0.0 && cpu_us.is_finite()) {
            return Err(wrong());
        }
        Ok(Self {
            role: role.to_owned(),
            cpu_us,
        })
    }
}

/// The greatest payload: what a broker accepts by default is of this order.
pub(crate) const PAYLOAD_MAX: usize = 256 * 1024;

impl Workload {
    /// `fan-in-100 QoS 1`.
    #[must_use]
    pub fn name(&self) -> String {
        let shape = match self.shape {
            Shape::FanIn => "fan-in",
            Shape::FanOut => "fan-out",
            Shape::Pairs => "pairs",
            Shape::Tap => "tap",
            Shape::Idle => return format!("idle {}", self.clients),
        };
        let load = match self.load {
            Load::Window(_) => String::new(),
            Load::Rate(rate) => format!(" {rate}/s"),
            Load::One => " one at a time".to_owned(),
        };
        let persistent = if self.persistent { " persistent" } else { "" };
        format!(
            "{shape} {} QoS {}{persistent}{load}",
            self.clients, self.qos
        )
    }

    /// Publishers and subscribers.
    #[must_use]
    pub fn ends(&self) -> (usize, usize) {
        match self.shape {
            Shape::FanIn => (self.clients, 1),
            Shape::FanOut => (1, self.clients),
            Shape::Pairs => (self.clients, self.clients),
            Shape::Tap => (self.clients, 0),
            Shape::Idle => (0, self.clients),
        }
    }

    /// Subscribers that get each message.
    #[must_use]
    pub fn fanout(&self) -> u64 {
        if self.shape == Shape::FanOut {
            self.clients as u64
        } else {
            1
        }
    }

    /// The topic of a publisher.
    #[must_use]
    pub fn topic(&self, publisher: usize) -> String {
        format!("bench/{publisher}/value")
    }

    /// What a subscriber subscribes to.
    #[must_use]
    pub fn filter(&self, subscriber: usize) -> String {
        match self.shape {
            Shape::FanIn => "bench/+/value".to_owned(),
            Shape::FanOut | Shape::Tap | Shape::Idle => self.topic(0),
            Shape::Pairs => self.topic(subscriber),
        }
    }

    /// QoS as a type.
    ///
    /// # Errors
    /// [`Error::Option`] when it is above 2.
    pub fn qos(&self) -> Result<QoS, Error> {
        QoS::try_from(self.qos).map_err(|problem| Error::Option(problem.to_string()))
    }

    /// Messages in flight per publisher: what is asked for, or 64 at QoS 0 and 20 at QoS 1 and 2 (what most
    /// client libraries allow by default). With a rate it is only a bound of memory.
    #[must_use]
    pub fn window(&self) -> u16 {
        match self.load {
            Load::Window(Some(window)) => window.max(1),
            Load::Window(None) if self.qos == 0 => 64,
            Load::Window(None) => 20,
            Load::Rate(_) => 1000,
            Load::One => 1,
        }
    }
}

impl Plan {
    /// Checks what the types leave open.
    ///
    /// # Errors
    /// [`Error::Option`] with what is wrong.
    pub fn check(&self) -> Result<(), Error> {
        let wrong = |text: String| Err(Error::Option(text));
        if !(STAMP_BYTES..=PAYLOAD_MAX).contains(&self.payload_bytes) {
            let payload = self.payload_bytes;
            return wrong(format!(
                "--payload {payload} must be {STAMP_BYTES} to {PAYLOAD_MAX} bytes"
            ));
        }
        for workload in &self.workloads {
            workload.qos()?;
            if workload.shape == Shape::Tap && workload.qos == 0 {
                return wrong(format!(
                    "{}: at QoS 0 nothing says that a message has arrived; ask for --qos 1,2",
                    workload.name()
                ));
            }
            if workload.clients == 0 || workload.clients > 1_000_000 {
                return wrong(format!("{}: 1 to 1000000 clients", workload.name()));
            }
            if matches!(workload.load, Load::Rate(rate) if !(rate > 0.0 && rate <= 1e8)) {
                return wrong(
                    "--rate must be above 0 and at most 100000000 messages per second".to_owned(),
                );
            }
        }
        if self.runs == 0 || self.workloads.is_empty() {
            return wrong(
                "there is nothing to measure: ask for at least one workload and one run".to_owned(),
            );
        }
        Ok(())
    }

    /// Sockets that this process needs at once.
    #[must_use]
    pub fn sockets(&self) -> u64 {
        let ends = self
            .workloads
            .iter()
            .map(Workload::ends)
            .map(|(publishers, subscribers)| publishers + subscribers);
        ends.max().unwrap_or(0) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_is_measured() {
        let name = |shape, load| {
            Workload {
                shape,
                clients: 100,
                qos: 1,
                load,
                persistent: matches!(load, Load::One),
            }
            .name()
        };
        assert_eq!(name(Shape::FanIn, Load::Window(None)), "fan-in 100 QoS 1");
        assert_eq!(
            name(Shape::FanOut, Load::Rate(10_000.0)),
            "fan-out 100 QoS 1 10000/s"
        );
        assert_eq!(
            name(Shape::Pairs, Load::One),
            "pairs 100 QoS 1 persistent one at a time"
        );
        assert_eq!(name(Shape::Idle, Load::One), "idle 100");
    }

    #[test]
    fn a_limit_is_a_role_and_a_cost() {
        let limit: CostLimit = "redis=0.05".parse().unwrap();
        assert_eq!((limit.role.as_str(), limit.cpu_us), ("redis", 0.05));
        for wrong in [
            "redis",
            "=1",
            "redis=",
            "redis=-1",
            "redis=NaN",
            "redis=inf",
        ] {
            assert!(wrong.parse::<CostLimit>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn every_filter_matches_the_topics_it_is_for() {
        for shape in [Shape::FanIn, Shape::FanOut, Shape::Pairs] {
            let workload = Workload {
                shape,
                clients: 3,
                qos: 0,
                load: Load::One,
                persistent: false,
            };
            let (publishers, subscribers) = workload.ends();
            let matching = (0..publishers)
                .flat_map(|publisher| {
                    (0..subscribers).map(move |subscriber| (publisher, subscriber))
                })
                .filter(|(publisher, subscriber)| {
                    dunlin_protocol::topic::matches(
                        &workload.filter(*subscriber),
                        &workload.topic(*publisher),
                    )
                });
            assert_eq!(
                matching.count() as u64,
                publishers as u64 * workload.fanout()
            );
        }
    }
}

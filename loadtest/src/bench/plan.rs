//! What to measure.

use std::time::Duration;

use dunlin_protocol::{QoS, Version};
use serde::{Deserialize, Serialize};

use super::goal::Goal;
use super::stamp::STAMP_BYTES;
use crate::error::Error;

/// Who sends to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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
    /// So many retained messages, each on a topic of its own, are stored.
    RetainStore,
    /// So many retained messages are read by one subscriber after the other.
    RetainRead,
    /// Clients that connect, subscribe and leave, over and over; so many at a time.
    Churn,
    /// So many persistent sessions are made, each with a subscription, and their clients leave.
    Sessions,
    /// So many messages are queued for sessions whose clients are away.
    Queue,
    /// So many subscriptions are made.
    Subscriptions,
}

/// What subscriptions look like that no message of the workload matches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Filters {
    /// No wildcard: a topic.
    #[default]
    Plain,
    /// A `+` on the way.
    Plus,
    /// A `#` at the end.
    Hash,
    /// Shared, without a wildcard; MQTT 5 only.
    Shared,
}

impl Filters {
    fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Plus => "+",
            Self::Hash => "#",
            Self::Shared => "shared",
        }
    }

    /// The filter with a number: beside those topics that messages go to, for as many levels as it can be.
    #[must_use]
    pub fn filter(self, number: usize) -> String {
        match self {
            Self::Plain => format!("bench/other{number}/value"),
            Self::Plus => format!("bench/+/other{number}"),
            Self::Hash => format!("bench/other{number}/#"),
            Self::Shared => format!("$share/group{}/bench/other{number}/value", number % 100),
        }
    }
}

/// How much is sent.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Workload {
    /// Who sends to whom.
    pub shape: Shape,
    /// Publishers, subscribers, pairs, connections or retained messages: of which there are many.
    pub clients: usize,
    /// 0, 1 or 2.
    pub qos: u8,
    /// How much is sent.
    pub load: Load,
    /// Whether the sessions of subscribers outlive their connections: what is theirs is written to the store.
    pub persistent: bool,
    /// Bytes of a payload, at least 20.
    pub payload_bytes: usize,
    /// Topics of each publisher, taken in turns.
    pub topics: u32,
    /// Levels of a topic, at least 3.
    pub levels: u8,
    /// Subscriptions of others that stand beside it, and match nothing of it.
    #[serde(default)]
    pub standing: usize,
    /// What they look like, or those of [`Shape::Subscriptions`].
    #[serde(default)]
    pub filters: Filters,
    /// Further subscribers to the same, that read nothing.
    #[serde(default)]
    pub deaf: usize,
    /// Further subscribers to the same, that read a KiB ten times a second.
    #[serde(default)]
    pub slow: usize,
}

/// What holds for all measurements of a run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What to measure, in this order.
    pub workloads: Vec<Workload>,
    /// What is asked of brokers, in which workload.
    pub goals: Vec<(Workload, Goal)>,
    /// What is not measured on which broker: it cannot do it.
    pub skip: Vec<(Workload, String)>,
    /// How often each is measured on each broker.
    pub runs: usize,
    /// MQTT version.
    pub version: Version,
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

/// Subscriptions that stand beside a workload at most.
const STANDING_MAX: usize = 10_000_000;

/// The greatest payload: what a broker accepts by default is of this order.
pub(crate) const PAYLOAD_MAX: usize = 256 * 1024;

/// The payload where nothing else is asked for.
pub(crate) const PAYLOAD_DEFAULT: usize = 64;
/// Levels of `bench/17/value`.
pub(crate) const LEVELS_DEFAULT: u8 = 3;
/// Connections that store retained messages, or fill queues.
pub(crate) const RETAINERS: usize = 10;
/// Clients that are on the way at a time to make sessions.
const MAKERS: usize = 100;
/// Connections that hold many subscriptions.
const HOLDERS: usize = 20;

impl Workload {
    /// A clean, saturated one with payloads of 64 bytes and a topic for each publisher.
    #[must_use]
    pub fn new(shape: Shape, clients: usize, qos: u8) -> Self {
        Self {
            shape,
            clients,
            qos,
            load: Load::Window(None),
            persistent: false,
            payload_bytes: PAYLOAD_DEFAULT,
            topics: 1,
            levels: LEVELS_DEFAULT,
            standing: 0,
            filters: Filters::Plain,
            deaf: 0,
            slow: 0,
        }
    }

    /// `fan-in 100 QoS 1`.
    #[must_use]
    pub fn name(&self) -> String {
        let shape = match self.shape {
            Shape::FanIn => "fan-in",
            Shape::FanOut => "fan-out",
            Shape::Pairs => "pairs",
            Shape::Tap => "tap",
            Shape::Idle => return format!("idle {}", self.clients),
            Shape::RetainStore => "retain-store",
            Shape::RetainRead => "retain-read",
            Shape::Churn => "churn",
            Shape::Sessions => "sessions",
            Shape::Queue => "queue",
            Shape::Subscriptions => "subscriptions",
        };
        let mut name = format!("{shape} {} QoS {}", self.clients, self.qos);
        if self.persistent {
            name += " persistent";
        }
        if self.payload_bytes != PAYLOAD_DEFAULT {
            name += &format!(" {} B", self.payload_bytes);
        }
        if self.topics != 1 {
            name += &format!(" {} topics", self.topics);
        }
        if self.levels != LEVELS_DEFAULT {
            name += &format!(" {} levels", self.levels);
        }
        if self.standing > 0 {
            name += &format!(" beside {} {}", self.standing, self.filters.name());
        } else if self.filters != Filters::Plain {
            name += &format!(" {}", self.filters.name());
        }
        for (count, what) in [(self.deaf, "deaf"), (self.slow, "slow")] {
            if count > 0 {
                name += &format!(" with {count} {what}");
            }
        }
        match self.load {
            Load::Window(_) => {}
            Load::Rate(rate) => name += &format!(" {rate}/s"),
            Load::One => name += " one at a time",
        }
        name
    }

    /// The same with few of what there are many, to see that it works.
    #[must_use]
    pub fn small(self) -> Self {
        let most = match self.shape {
            Shape::Idle => 50,
            Shape::RetainStore
            | Shape::RetainRead
            | Shape::Sessions
            | Shape::Queue
            | Shape::Subscriptions => 500,
            _ => 10,
        };
        Self {
            clients: self.clients.min(most),
            standing: self.standing.min(500),
            deaf: self.deaf.min(10),
            slow: self.slow.min(10),
            ..self
        }
    }

    /// Publishers and subscribers.
    #[must_use]
    pub fn ends(&self) -> (usize, usize) {
        match self.shape {
            Shape::FanIn => (self.clients, 1),
            Shape::FanOut => (1, self.clients),
            Shape::Pairs => (self.clients, self.clients),
            Shape::Tap => (self.clients, 0),
            Shape::Idle | Shape::Churn => (0, self.clients),
            Shape::RetainStore | Shape::Queue => (self.clients.min(RETAINERS), 0),
            Shape::Sessions => (0, self.clients.min(MAKERS)),
            Shape::Subscriptions => (0, self.clients.min(HOLDERS)),
            Shape::RetainRead => (0, 1),
        }
    }

    /// Subscribers that get each message.
    #[must_use]
    pub fn fanout(&self) -> u64 {
        match self.shape {
            Shape::FanOut => self.clients as u64,
            Shape::RetainStore if self.qos == 0 => 0,
            _ => 1,
        }
    }

    /// Whether an acknowledgement counts as delivery.
    #[must_use]
    pub fn ends_with_the_acknowledgement(&self) -> bool {
        matches!(self.shape, Shape::Tap | Shape::RetainStore | Shape::Queue)
    }

    /// Whether clients come and go, and nothing is published.
    #[must_use]
    pub fn is_of_visits(&self) -> bool {
        matches!(self.shape, Shape::Churn | Shape::Sessions)
    }

    /// Messages that a publisher sends, if that is not for as long as it is measured.
    #[must_use]
    pub fn quota(&self, publisher: usize) -> Option<u64> {
        let (publishers, _) = self.ends();
        let rest = self.clients.checked_rem(publishers)?;
        let each = self.clients / publishers;
        matches!(self.shape, Shape::RetainStore | Shape::Queue)
            .then(|| (each + usize::from(publisher < rest)) as u64)
    }

    /// Topics of one publisher, taken in turns.
    #[must_use]
    pub fn topics_of_a_publisher(&self) -> u64 {
        match self.shape {
            Shape::RetainStore | Shape::RetainRead => self.clients as u64,
            _ => u64::from(self.topics),
        }
    }

    /// A publisher's part of its topics.
    fn branch(&self, publisher: &str) -> String {
        let between: String = (LEVELS_DEFAULT..self.levels)
            .map(|level| format!("/level{level}"))
            .collect();
        format!("bench/{publisher}{between}")
    }

    /// The first topic of a publisher. Where it has several, the topic ends with the digits of its number.
    #[must_use]
    pub fn topic(&self, publisher: usize) -> String {
        let branch = self.branch(&publisher.to_string());
        match self.topics_of_a_publisher() {
            1 => branch + "/value",
            topics => format!("{branch}/{:0width$}", 0, width = digits(topics)),
        }
    }

    /// What a subscriber subscribes to.
    #[must_use]
    pub fn filter(&self, subscriber: usize) -> String {
        let last = if self.topics == 1 { "value" } else { "+" };
        match self.shape {
            Shape::FanIn => self.branch("+") + "/" + last,
            Shape::FanOut | Shape::Tap | Shape::Idle | Shape::RetainStore | Shape::Queue => {
                self.branch("0") + "/" + last
            }
            Shape::Subscriptions => self.filters.filter(subscriber),
            Shape::RetainRead => "bench/#".to_owned(),
            Shape::Pairs | Shape::Churn | Shape::Sessions => {
                self.branch(&subscriber.to_string()) + "/" + last
            }
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

/// Decimal digits that tell so many things apart.
pub(crate) fn digits(count: u64) -> usize {
    count.saturating_sub(1).to_string().len()
}

impl Plan {
    /// Checks what the types leave open.
    ///
    /// # Errors
    /// [`Error::Option`] with what is wrong.
    pub fn check(&self) -> Result<(), Error> {
        let wrong = |text: String| Err(Error::Option(text));
        for workload in &self.workloads {
            workload.qos()?;
            let payload = workload.payload_bytes;
            if !(STAMP_BYTES..=PAYLOAD_MAX).contains(&payload) {
                return wrong(format!(
                    "{}: a payload of {payload} bytes must have {STAMP_BYTES} to {PAYLOAD_MAX}",
                    workload.name()
                ));
            }
            if workload.filters == Filters::Shared && !self.version.is_v5() {
                return wrong(format!(
                    "{}: shared subscriptions are for --protocol 5",
                    workload.name()
                ));
            }
            if workload.standing > STANDING_MAX {
                return wrong(format!(
                    "{}: at most {STANDING_MAX} subscriptions beside it",
                    workload.name()
                ));
            }
            let (_, subscribers) = workload.ends();
            if workload.deaf + workload.slow > 0 && (workload.qos > 0 || subscribers == 0) {
                return wrong(format!(
                    "{}: deaf and slow subscribers are for workloads at QoS 0 that have subscribers",
                    workload.name()
                ));
            }
            if workload.topics == 0 || !(LEVELS_DEFAULT..=64).contains(&workload.levels) {
                return wrong(format!(
                    "{}: at least 1 topic, and 3 to 64 levels",
                    workload.name()
                ));
            }
            if matches!(workload.shape, Shape::Tap | Shape::Queue) && workload.qos == 0 {
                return wrong(format!(
                    "{}: at QoS 0 nothing says that a message has arrived; ask for --qos 1,2",
                    workload.name()
                ));
            }
            if workload.clients == 0 || workload.clients > 10_000_000 {
                return wrong(format!("{}: 1 to 10000000 clients", workload.name()));
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

    /// Whether a workload is measured on a broker.
    #[must_use]
    pub fn measures(&self, workload: &Workload, broker: &str) -> bool {
        let mut skipped = self.skip.iter();
        !skipped.any(|(skipped, name)| skipped == workload && name == broker)
    }

    /// Sockets that this process needs at once.
    #[must_use]
    pub fn sockets(&self) -> u64 {
        let ends = self.workloads.iter().map(|workload| {
            let (publishers, subscribers) = workload.ends();
            publishers + subscribers + HOLDERS + workload.deaf + workload.slow
        });
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
                load,
                persistent: matches!(load, Load::One),
                ..Workload::new(shape, 100, 1)
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
    fn a_name_tells_payloads_and_topics_that_are_not_the_usual_ones() {
        let workload = Workload {
            payload_bytes: 1024,
            topics: 10,
            levels: 5,
            ..Workload::new(Shape::FanIn, 100, 0)
        };
        assert_eq!(
            workload.name(),
            "fan-in 100 QoS 0 1024 B 10 topics 5 levels"
        );
        assert_eq!(workload.topic(7), "bench/7/level3/level4/0");
    }

    #[test]
    fn retained_messages_are_dealt_out_to_few_connections() {
        let workload = Workload::new(Shape::RetainStore, 1003, 1);
        let (publishers, _) = workload.ends();
        let quotas: Vec<_> = (0..publishers)
            .filter_map(|publisher| workload.quota(publisher))
            .collect();
        assert_eq!((publishers, quotas.iter().sum()), (10, 1003_u64));
        assert_eq!(workload.topic(3), "bench/3/0000");
        assert_eq!(Workload::new(Shape::FanIn, 3, 1).quota(0), None);
        let queue = Workload::new(Shape::Queue, 25, 1);
        assert_eq!((queue.quota(0), queue.quota(9)), (Some(3), Some(2)));
        assert_eq!(digits(10), 1);
        assert_eq!(digits(11), 2);
    }

    #[test]
    fn every_filter_matches_the_topics_it_is_for() {
        for shape in [Shape::FanIn, Shape::FanOut, Shape::Pairs] {
            for (topics, levels) in [(1, 3), (12, 6)] {
                let workload = Workload {
                    topics,
                    levels,
                    ..Workload::new(shape, 3, 0)
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
}

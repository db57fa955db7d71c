//! `loadtest bench`.

mod progress;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use dunlin_protocol::Version;

use self::progress::Progress;
use super::{print, write, write_json};
use crate::bench::{
    self, BenchScenario, BrokerSpec, CostLimit, Filters, Load, Plan, Shape, Target, Workload,
};
use crate::error::Error;

/// The folder of saved runs, where the project's tree is.
const RUNS: &str = "loadtest/runs";

#[derive(Debug, Args)]
pub(super) struct BenchArgs {
    /// A broker to start: a TOML file, or NAME=COMMAND with {port} in it. Several are measured alternately.
    #[arg(
        long = "broker",
        value_name = "FILE|NAME=COMMAND",
        required_unless_present_any = ["connect", "scenario"]
    )]
    brokers: Vec<String>,
    /// A TOML file that says what to measure, and on which brokers if `--broker` does not.
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = [
            "workloads", "qos", "publishers", "subscribers", "connections", "stored", "visitors", "standing",
            "filters",
            "deaf",
            "slow", "payload",
            "topics", "levels", "window", "rate", "one", "persistent",
        ]
    )]
    scenario: Option<PathBuf>,
    /// How many processes there are of those that have `scales = true` in the file; each number is a broker.
    #[arg(long, value_delimiter = ',')]
    replicas: Vec<usize>,
    /// Measure a broker that is running already.
    #[arg(long, value_name = "ADDRESS:PORT", conflicts_with = "brokers")]
    connect: Option<SocketAddr>,
    /// Its process id: without it, its cost is not known.
    #[arg(long, requires = "connect")]
    pid: Option<u32>,
    /// What to measure.
    #[arg(long = "workload", value_enum, value_delimiter = ',')]
    workloads: Vec<WorkloadName>,
    /// At which QoS.
    #[arg(long, value_delimiter = ',', default_values_t = [0, 1, 2], value_parser = clap::value_parser!(u8).range(0..=2))]
    qos: Vec<u8>,
    /// Publishers of fan-in, and pairs.
    #[arg(long, default_value_t = 100)]
    publishers: usize,
    /// Subscribers of fan-out; each number is a workload.
    #[arg(long, value_delimiter = ',', default_values_t = [100, 1000])]
    subscribers: Vec<usize>,
    /// Idle connections.
    #[arg(long, default_value_t = 10_000)]
    connections: usize,
    /// Retained messages, sessions, queued messages, subscriptions: what is stored.
    #[arg(long, default_value_t = 50_000)]
    stored: usize,
    /// Clients of churn that are on the way at a time.
    #[arg(long, default_value_t = 100)]
    visitors: usize,
    /// Bytes of a payload; each number is a workload.
    #[arg(long, value_delimiter = ',', default_values_t = [64])]
    payload: Vec<usize>,
    /// Topics of each publisher, taken in turns.
    #[arg(long, default_value_t = 1)]
    topics: u32,
    /// Levels of a topic.
    #[arg(long, default_value_t = 3)]
    levels: u8,
    /// Subscriptions of others that stand beside a workload and match nothing of it.
    #[arg(long, default_value_t = 0)]
    standing: usize,
    /// What these look like, or those of `subscriptions`.
    #[arg(long, value_enum, default_value = "plain")]
    filters: FiltersName,
    /// Further subscribers to the same, that read nothing; at QoS 0.
    #[arg(long, default_value_t = 0)]
    deaf: usize,
    /// Further subscribers to the same, that read a KiB ten times a second; at QoS 0.
    #[arg(long, default_value_t = 0)]
    slow: usize,
    /// Messages that each publisher keeps in flight; 64 at QoS 0 and 20 at QoS 1 and 2 when not given.
    #[arg(long, conflicts_with_all = ["rate", "one"])]
    window: Option<u16>,
    /// Send so many messages per second in all, whatever comes back; latency counts from when each was due.
    #[arg(long, conflicts_with = "one")]
    rate: Option<f64>,
    /// Send one message at a time: the next when it has arrived and is acknowledged.
    #[arg(long)]
    one: bool,
    /// QoS 1 and 2: let the window count what is delivered, too, and not only what is acknowledged.
    #[arg(long)]
    bound_by_delivery: bool,
    /// Subscribers have sessions that outlive their connections.
    #[arg(long)]
    persistent: bool,
    /// What a message may cost the processes of a role (or `all`) in CPU time; more is an error.
    #[arg(long, value_name = "ROLE=MICROSECONDS", value_delimiter = ',')]
    max_cpu: Vec<CostLimit>,
    /// It is an error if a goal of the scenario is not met.
    #[arg(long, requires = "scenario")]
    check: bool,
    /// MQTT version; 3.1.1 when neither this nor the scenario says.
    #[arg(long, value_parser = ["5", "3.1.1"])]
    protocol: Option<String>,
    /// How often each measurement is repeated; 3 when neither this nor the scenario says.
    #[arg(long)]
    runs: Option<usize>,
    /// Seconds to wait for a steady state; 1 when neither this nor the scenario says.
    #[arg(long)]
    warm_up: Option<f64>,
    /// Seconds to measure; 3 when neither this nor the scenario says.
    #[arg(long)]
    seconds: Option<f64>,
    /// Processor for the broker; the last one when neither is given and there are two.
    #[arg(long, requires = "load_cpu")]
    broker_cpu: Option<usize>,
    /// Processor for the load generator.
    #[arg(long, requires = "broker_cpu")]
    load_cpu: Option<usize>,
    /// Let broker and load generator run on any processor.
    #[arg(long, conflicts_with = "broker_cpu")]
    no_pin: bool,
    /// Folder to save the run in; `loadtest/runs` where that is there.
    #[arg(long, value_name = "FOLDER")]
    save: Option<PathBuf>,
    /// A few small measurements in seconds, to see that everything works; wrong counts are an error.
    #[arg(long)]
    smoke: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum WorkloadName {
    FanIn,
    FanOut,
    Pairs,
    /// Publishers alone: what goes to a tap. Only where it is asked for.
    Tap,
    Idle,
    /// Retained messages are stored. Only where it is asked for, as what follows.
    RetainStore,
    /// Retained messages are read.
    RetainRead,
    /// Clients connect, subscribe and leave.
    Churn,
    /// Persistent sessions are made, and their clients leave.
    Sessions,
    /// Messages are queued for sessions whose clients are away.
    Queue,
    /// Subscriptions are made.
    Subscriptions,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FiltersName {
    Plain,
    Plus,
    Hash,
    Shared,
}

impl FiltersName {
    fn filters(self) -> Filters {
        match self {
            Self::Plain => Filters::Plain,
            Self::Plus => Filters::Plus,
            Self::Hash => Filters::Hash,
            Self::Shared => Filters::Shared,
        }
    }
}

impl WorkloadName {
    fn shape(self) -> Shape {
        match self {
            Self::FanIn => Shape::FanIn,
            Self::FanOut => Shape::FanOut,
            Self::Pairs => Shape::Pairs,
            Self::Tap => Shape::Tap,
            Self::Idle => Shape::Idle,
            Self::RetainStore => Shape::RetainStore,
            Self::RetainRead => Shape::RetainRead,
            Self::Churn => Shape::Churn,
            Self::Sessions => Shape::Sessions,
            Self::Queue => Shape::Queue,
            Self::Subscriptions => Shape::Subscriptions,
        }
    }
}

pub(super) fn run(args: &BenchArgs) -> Result<(), Error> {
    let scenario = args
        .scenario
        .as_deref()
        .map(BenchScenario::open)
        .transpose()?;
    let targets = args.targets(scenario.as_ref())?;
    let plan = args.plan(scenario.as_ref())?;
    let progress = Progress::new();
    let report = bench::run(&plan, &targets, |step| progress.show(step))?;
    progress.end();
    print(&report.to_string())?;
    let runs = Path::new(RUNS);
    let folder = args
        .save
        .as_deref()
        .or_else(|| (runs.is_dir() && !args.smoke).then_some(runs));
    if let Some(folder) = folder {
        let path = folder.join(report.file_stem() + ".json");
        write_json(&path, &report)?;
        let page = path.with_extension("html");
        write(&page, &report.to_html())?;
        print(&format!(
            "saved as {} and {}\n",
            path.display(),
            page.display()
        ))?;
    }
    report.check_counts()?;
    report.check_costs(&args.max_cpu)?;
    if args.check {
        report.check_goals()?;
    }
    Ok(())
}

impl BenchArgs {
    fn targets(&self, scenario: Option<&BenchScenario>) -> Result<Vec<Target>, Error> {
        if let Some(address) = self.connect {
            return Ok(vec![Target::Running {
                name: address.to_string(),
                address,
                pid: self.pid,
            }]);
        }
        let mut targets: Vec<Target> = Vec::new();
        let mut given: Vec<BrokerSpec> = Vec::new();
        for text in &self.brokers {
            given.push(if text.contains('=') {
                BrokerSpec::parse(text)
            } else {
                BrokerSpec::open(Path::new(text))
            }?);
        }
        let written = scenario.map_or(&[][..], |scenario| &scenario.brokers);
        if given.is_empty() {
            for path in written {
                given.push(BrokerSpec::open(path)?);
            }
        }
        if given.is_empty() {
            return Err(Error::Option(
                "the scenario names no brokers: give one with --broker or --connect".to_owned(),
            ));
        }
        for spec in given {
            let specs = if self.replicas.is_empty() || !spec.scales() {
                vec![spec]
            } else {
                let sizes = self.replicas.iter();
                sizes
                    .map(|replicas| spec.with_replicas(*replicas))
                    .collect::<Result<_, _>>()?
            };
            for spec in specs {
                if targets.iter().any(|target| target.name() == spec.name) {
                    return Err(Error::Option(format!(
                        "two brokers are named {}",
                        spec.name
                    )));
                }
                targets.push(Target::Start(spec));
            }
        }
        Ok(targets)
    }

    fn plan(&self, scenario: Option<&BenchScenario>) -> Result<Plan, Error> {
        let said = |of: fn(&BenchScenario) -> Option<f64>| scenario.and_then(of);
        let protocol = self
            .protocol
            .as_deref()
            .or_else(|| scenario.and_then(|scenario| scenario.protocol.as_deref()))
            .unwrap_or("3.1.1");
        let mut workloads =
            scenario.map_or_else(|| self.list(), |scenario| scenario.workloads.clone());
        let mut skip = scenario.map_or_else(Vec::new, |scenario| scenario.skip.clone());
        let mut goals = scenario.map_or_else(Vec::new, |scenario| scenario.goals.clone());
        if self.smoke {
            for (workload, _) in &mut goals {
                *workload = workload.small();
            }
            for (workload, _) in &mut skip {
                *workload = workload.small();
            }
            let mut small: Vec<Workload> = Vec::new();
            for workload in workloads.into_iter().map(Workload::small) {
                if !small.contains(&workload) {
                    small.push(workload);
                }
            }
            workloads = small;
        }
        let persistent = workloads.iter().any(|workload| workload.persistent);
        if persistent && self.connect.is_some() && protocol != "5" {
            return Err(Error::Option(
                "persistent workloads leave sessions in a broker that goes on running: use --protocol 5, which ends them"
                    .to_owned(),
            ));
        }
        let seconds = |name: &str, value: f64| {
            Duration::try_from_secs_f64(value)
                .ok()
                .filter(|time| *time <= Duration::from_secs(86_400))
                .ok_or_else(|| Error::Option(format!("--{name} {value} must be 0 to 86400")))
        };
        let warm_up = self.warm_up.or(said(|one| one.warm_up)).unwrap_or(1.0);
        let measure = self.seconds.or(said(|one| one.seconds)).unwrap_or(3.0);
        let runs = self.runs.or(scenario.and_then(|one| one.runs));
        let (warm_up, measure, runs) = if self.smoke {
            (Duration::from_millis(100), Duration::from_millis(300), 1)
        } else {
            (
                seconds("warm-up", warm_up)?,
                seconds("seconds", measure)?,
                runs.unwrap_or(3),
            )
        };
        Ok(Plan {
            workloads,
            goals,
            skip,
            runs,
            version: if protocol == "5" {
                Version::V5
            } else {
                Version::V311
            },
            warm_up,
            measure,
            drain: Duration::from_secs(5),
            per_source: 10_000,
            bound_by_delivery: self.bound_by_delivery,
            pinned: self.pinned(),
        })
    }

    fn list(&self) -> Vec<Workload> {
        let all = [
            WorkloadName::FanIn,
            WorkloadName::FanOut,
            WorkloadName::Pairs,
            WorkloadName::Idle,
        ];
        let names: &[WorkloadName] = if self.workloads.is_empty() {
            &all
        } else {
            &self.workloads
        };
        let load = match (self.rate, self.one) {
            (Some(rate), _) => Load::Rate(rate),
            (None, true) => Load::One,
            (None, false) => Load::Window(self.window),
        };
        let mut list: Vec<Workload> = Vec::new();
        for name in names {
            let shape = name.shape();
            let counts = match name {
                WorkloadName::FanIn | WorkloadName::Pairs | WorkloadName::Tap => {
                    vec![self.publishers]
                }
                WorkloadName::FanOut => self.subscribers.clone(),
                WorkloadName::Idle => vec![self.connections],
                WorkloadName::RetainStore
                | WorkloadName::RetainRead
                | WorkloadName::Sessions
                | WorkloadName::Queue
                | WorkloadName::Subscriptions => vec![self.stored],
                WorkloadName::Churn => vec![self.visitors],
            };
            for clients in counts {
                for payload_bytes in &self.payload {
                    for qos in self
                        .qos
                        .iter()
                        .filter(|qos| !matches!(shape, Shape::Tap | Shape::Queue) || **qos > 0)
                    {
                        let workload = Workload {
                            load,
                            persistent: self.persistent,
                            payload_bytes: *payload_bytes,
                            topics: self.topics,
                            levels: self.levels,
                            standing: self.standing,
                            filters: self.filters.filters(),
                            deaf: self.deaf,
                            slow: self.slow,
                            ..Workload::new(
                                shape,
                                clients,
                                if shape == Shape::Idle { 0 } else { *qos },
                            )
                        };
                        // Idle connections have neither QoS nor payload.
                        if shape != Shape::Idle || !list.iter().any(|one| one.shape == shape) {
                            list.push(workload);
                        }
                    }
                }
            }
        }
        list
    }

    fn pinned(&self) -> Option<(usize, usize)> {
        if self.no_pin || self.smoke || self.connect.is_some() {
            return None;
        }
        self.broker_cpu.zip(self.load_cpu).or_else(|| {
            let processors = bench::processors();
            let (own, broker) = (processors.first()?, processors.last()?);
            (own != broker).then_some((*broker, *own))
        })
    }
}

//! `loadtest bench`.

use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use dunlin_protocol::Version;
use indicatif::ProgressBar;

use super::{print, write_json};
use crate::bench::{self, BrokerSpec, CostLimit, Load, Outcome, Plan, Shape, Target, Workload};
use crate::error::Error;
use crate::latency::human_us;

/// The folder of saved runs, where the project's tree is.
const RUNS: &str = "loadtest/runs";

#[derive(Debug, Args)]
pub(super) struct BenchArgs {
    /// A broker to start: a TOML file, or NAME=COMMAND with {port} in it. Several are measured alternately.
    #[arg(
        long = "broker",
        value_name = "FILE|NAME=COMMAND",
        required_unless_present = "connect"
    )]
    brokers: Vec<String>,
    /// How many processes there are of those that have `scales = true` in the file; each number is a broker.
    #[arg(long, value_delimiter = ',', requires = "brokers")]
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
    /// Bytes of a payload.
    #[arg(long, default_value_t = 64)]
    payload: usize,
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
    /// MQTT version.
    #[arg(long, default_value = "3.1.1", value_parser = ["5", "3.1.1"])]
    protocol: String,
    /// How often each measurement is repeated.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Seconds to wait for a steady state.
    #[arg(long, default_value_t = 1.0)]
    warm_up: f64,
    /// Seconds to measure.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
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
}

pub(super) fn run(args: &BenchArgs) -> Result<(), Error> {
    let targets = args.targets()?;
    let plan = args.plan()?;
    let bar = std::io::stderr()
        .is_terminal()
        .then(ProgressBar::new_spinner);
    let report = bench::run(&plan, &targets, |what, outcome| {
        show(bar.as_ref(), what, outcome)
    })?;
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    print(&report.to_string())?;
    let runs = Path::new(RUNS);
    let folder = args
        .save
        .as_deref()
        .or_else(|| (runs.is_dir() && !args.smoke).then_some(runs));
    if let Some(folder) = folder {
        let path = folder.join(report.file_name());
        write_json(&path, &report)?;
        print(&format!("saved as {}\n", path.display()))?;
    }
    report.check_counts()?;
    report.check_costs(&args.max_cpu)
}

fn show(bar: Option<&ProgressBar>, what: &str, outcome: Option<&Outcome>) {
    match (bar, outcome) {
        (Some(bar), None) => {
            bar.set_message(what.to_owned());
            bar.tick();
        }
        (None, None) => {}
        (bar, Some(outcome)) => {
            let cost = outcome
                .cpu_us
                .map_or_else(|| "unknown".to_owned(), |cpu| format!("{cpu:.2} µs"));
            let line = match outcome.bytes_per_connection {
                Some(memory) => {
                    format!("{what}: {:.0} bytes each, connect {cost}", memory.anonymous)
                }
                None => format!(
                    "{what}: {:.0} messages/s, {cost} each, p99 {}",
                    outcome.delivered_per_s,
                    human_us(outcome.latency.p99_us)
                ),
            };
            match bar {
                Some(bar) => bar.println(line),
                None => eprintln!("{line}"),
            }
        }
    }
}

impl BenchArgs {
    fn targets(&self) -> Result<Vec<Target>, Error> {
        if let Some(address) = self.connect {
            return Ok(vec![Target::Running {
                name: address.to_string(),
                address,
                pid: self.pid,
            }]);
        }
        let mut targets: Vec<Target> = Vec::new();
        for text in &self.brokers {
            let spec = if text.contains('=') {
                BrokerSpec::parse(text)
            } else {
                BrokerSpec::open(Path::new(text))
            }?;
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

    fn plan(&self) -> Result<Plan, Error> {
        if self.persistent && self.connect.is_some() && self.protocol != "5" {
            return Err(Error::Option(
                "--persistent leaves sessions in a broker that goes on running: use --protocol 5, which ends them"
                    .to_owned(),
            ));
        }
        let seconds = |name: &str, value: f64| {
            Duration::try_from_secs_f64(value)
                .ok()
                .filter(|time| *time <= Duration::from_secs(86_400))
                .ok_or_else(|| Error::Option(format!("--{name} {value} must be 0 to 86400")))
        };
        let (warm_up, measure, runs) = if self.smoke {
            (Duration::from_millis(100), Duration::from_millis(300), 1)
        } else {
            (
                seconds("warm-up", self.warm_up)?,
                seconds("seconds", self.seconds)?,
                self.runs,
            )
        };
        Ok(Plan {
            workloads: self.list(),
            runs,
            version: if self.protocol == "5" {
                Version::V5
            } else {
                Version::V311
            },
            payload_bytes: self.payload,
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
        let few = |count: usize, of: usize| if self.smoke { count.min(of) } else { count };
        let load = match (self.rate, self.one) {
            (Some(rate), _) => Load::Rate(rate),
            (None, true) => Load::One,
            (None, false) => Load::Window(self.window),
        };
        let mut list = Vec::new();
        let mut add = |shape, clients, qos| {
            list.push(Workload {
                shape,
                clients,
                qos,
                load,
                persistent: self.persistent,
            })
        };
        for name in names {
            match name {
                WorkloadName::Idle => add(Shape::Idle, few(self.connections, 50), 0),
                WorkloadName::FanIn => self
                    .qos
                    .iter()
                    .for_each(|qos| add(Shape::FanIn, few(self.publishers, 10), *qos)),
                WorkloadName::Pairs => self
                    .qos
                    .iter()
                    .for_each(|qos| add(Shape::Pairs, few(self.publishers, 10), *qos)),
                WorkloadName::Tap => self
                    .qos
                    .iter()
                    .filter(|qos| **qos > 0)
                    .for_each(|qos| add(Shape::Tap, few(self.publishers, 10), *qos)),
                WorkloadName::FanOut => {
                    let counts = if self.smoke {
                        &[10][..]
                    } else {
                        &self.subscribers
                    };
                    for count in counts {
                        self.qos
                            .iter()
                            .for_each(|qos| add(Shape::FanOut, *count, *qos));
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

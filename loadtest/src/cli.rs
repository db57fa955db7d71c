//! The command line: options in, exit code out.

mod bench;
mod compare;
mod fleet;
mod stay;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand};

use crate::bench::Report;
use crate::error::Error;
use crate::expected;
use crate::relay::Relay;
use crate::scenario::{Overrides, Scenario};

/// Simulated device fleets that replay real measurements, and benchmarks, for any MQTT broker.
#[derive(Debug, Parser)]
#[command(name = "loadtest", version, about)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a fleet of devices that publish measurements.
    Fleet(Box<fleet::FleetArgs>),
    /// Measure what messages and connections cost brokers, side by side.
    Bench(Box<bench::BenchArgs>),
    /// Put two saved runs of `bench` side by side: ratios, with their spread.
    Compare(compare::CompareArgs),
    /// Write the page of a saved run of `bench` again.
    Report(ReportArgs),
    /// Read messages and write them on, and nothing else: the floor that brokers are measured by.
    Relay(RelayArgs),
    /// Keep persistent sessions busy, slowly, and count what restarts of brokers do to them.
    Stay(stay::StayArgs),
    /// Print what a query over the measurements must answer, computed from the input files alone.
    Expected(ExpectedArgs),
}

/// Which scenario is meant; the same for `fleet` and `expected`.
#[derive(Debug, Args)]
struct ScenarioArgs {
    /// Scenario file; without it the built-in replay of the real measurements.
    #[arg(long, value_name = "FILE")]
    scenario: Option<PathBuf>,
    /// Seed of all random numbers, in place of the scenario's.
    #[arg(long)]
    seed: Option<u64>,
    /// Leave out the scenario's noise, outliers and gaps.
    #[arg(long)]
    clean: bool,
}

impl ScenarioArgs {
    fn open(&self) -> Result<Scenario, Error> {
        let overrides = Overrides {
            seed: self.seed,
            clean: self.clean,
        };
        match &self.scenario {
            Some(path) => Scenario::open(path, overrides),
            None => Scenario::default_replay(overrides),
        }
    }
}

#[derive(Debug, Args)]
struct ExpectedArgs {
    #[command(flatten)]
    scenario: ScenarioArgs,
    /// The field of which to give the monthly means.
    #[arg(long, default_value = "temperature")]
    field: String,
    /// Print JSON in place of a table.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct RelayArgs {
    /// Where to listen; with port 0 on any free port.
    #[arg(long, default_value = "127.0.0.1:1883")]
    listen: SocketAddr,
}

#[derive(Debug, Args)]
struct ReportArgs {
    /// A saved run.
    run: PathBuf,
    /// Where to write the page; beside the run when not given.
    #[arg(long, short)]
    output: Option<PathBuf>,
}

/// Runs what the command line asks for.
///
/// # Errors
/// See [`Error`]; [`Error::exit_code`] is the exit code of the process.
pub fn run(cli: Cli) -> Result<(), Error> {
    match cli.command {
        Command::Fleet(args) => fleet::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::Relay(args) => {
            let relay = Relay::bind(args.listen)?;
            print(&format!("relays on {}\n", relay.address()?))?;
            relay.run()
        }
        Command::Report(args) => {
            let page = args
                .output
                .unwrap_or_else(|| args.run.with_extension("html"));
            write(&page, &Report::open(&args.run)?.to_html())
        }
        Command::Stay(args) => stay::run(&args),
        Command::Expected(args) => expected(&args),
    }
}

fn expected(args: &ExpectedArgs) -> Result<(), Error> {
    let expected = expected::compute(&args.scenario.open()?, &args.field)?;
    if args.json {
        print_json(&expected)
    } else {
        print(&expected.to_table())
    }
}

/// Prints a result: standard output is this tool's product.
fn print(text: &str) -> Result<(), Error> {
    use std::io::Write as _;
    std::io::stdout()
        .write_all(text.as_bytes())
        .map_err(|source| Error::Output {
            path: "standard output".into(),
            source,
        })
}

fn print_json(value: &impl serde::Serialize) -> Result<(), Error> {
    print(&(to_json(value)? + "\n"))
}

fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<(), Error> {
    write(path, &(to_json(value)? + "\n"))
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    std::fs::write(path, text).map_err(|source| Error::Output {
        path: path.to_owned(),
        source,
    })
}

fn to_json(value: &impl serde::Serialize) -> Result<String, Error> {
    serde_json::to_string_pretty(value).map_err(|problem| Error::Output {
        path: "report".into(),
        source: problem.into(),
    })
}

//! `loadtest fleet`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use dunlin_protocol::{QoS, Version};

use super::{ScenarioArgs, print, write_json};
use crate::error::Error;
use crate::fleet::{self, Login, Options, Speed, TlsFiles};

#[derive(Debug, Args)]
pub(super) struct FleetArgs {
    #[command(flatten)]
    scenario: ScenarioArgs,
    /// Host name or address of the broker.
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    /// Its port.
    #[arg(long, default_value_t = 1883)]
    port: u16,
    /// MQTT version.
    #[arg(long, default_value = "5", value_parser = ["5", "3.1.1"])]
    protocol: String,
    /// QoS of all messages.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=2))]
    qos: u8,
    /// Devices in all; stations share them equally unless the scenario says otherwise.
    #[arg(long, default_value_t = 120)]
    devices: usize,
    /// Virtual seconds that pass in one real second.
    #[arg(
        long,
        default_value_t = 1_000_000.0,
        conflicts_with = "as_fast_as_possible"
    )]
    speedup: f64,
    /// Ignore the schedule: every device publishes whenever it has room in flight.
    #[arg(long)]
    as_fast_as_possible: bool,
    /// Messages that a device may have unacknowledged.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    inflight: u16,
    /// User name.
    #[arg(long)]
    user: Option<String>,
    /// Password.
    #[arg(long, env = "LOADTEST_PASSWORD", hide_env_values = true)]
    password: Option<String>,
    /// What client ids begin with; the device's name follows.
    #[arg(long, default_value = "fleet-")]
    client_id_prefix: String,
    /// Keep alive in seconds; 0 for none.
    #[arg(long, default_value_t = 60)]
    keep_alive: u16,
    /// PEM file of the certificates to trust: connect by TLS.
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// PEM file of the fleet's own certificate chain, for mutual TLS.
    #[arg(long, value_name = "FILE", requires = "tls_ca", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// PEM file of its private key.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// The name that the broker's certificate must have, in place of the host's.
    #[arg(long, value_name = "NAME", requires = "tls_ca")]
    tls_server_name: Option<String>,
    /// Seconds without an answer after which a connection is given up and made again.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    ack_timeout: u64,
    /// Seconds that a device tries to connect before its messages count as failed.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(0..=86_400))]
    give_up: u64,
    /// Write the report as JSON too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Show no progress.
    #[arg(long)]
    quiet: bool,
}

/// Seconds that a broker keeps a session over a broken connection: longer than any give-up time.
const SESSION_EXPIRY: u32 = 2 * 86_400;

pub(super) fn run(args: &FleetArgs) -> Result<(), Error> {
    let scenario = args.scenario.open()?;
    let options = args.options()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| Error::Io {
            what: "cannot start the runtime".to_owned(),
            source,
        })?;
    let interrupted = async {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    let report = runtime.block_on(fleet::run(options, &scenario, interrupted))?;
    print(&report.to_string())?;
    if let Some(path) = &args.json {
        write_json(path, &report)?;
    }
    report.verdict()
}

impl FleetArgs {
    fn options(&self) -> Result<Options, Error> {
        if !(self.speedup.is_finite() && self.speedup > 0.0) {
            return Err(Error::Option(format!(
                "--speedup {} must be above 0",
                self.speedup
            )));
        }
        let speed = if self.as_fast_as_possible {
            Speed::AsFastAsPossible
        } else {
            Speed::Times(self.speedup)
        };
        let tls = self.tls_ca.clone().map(|ca| TlsFiles {
            ca,
            identity: self.tls_cert.clone().zip(self.tls_key.clone()),
            server_name: self.tls_server_name.clone(),
        });
        Ok(Options {
            login: Login {
                host: self.host.clone(),
                port: self.port,
                version: if self.protocol == "5" {
                    Version::V5
                } else {
                    Version::V311
                },
                client_id_prefix: self.client_id_prefix.clone(),
                user: self.user.clone(),
                password: self.password.clone(),
                keep_alive: self.keep_alive,
                session_expiry: SESSION_EXPIRY,
                tls,
            },
            qos: QoS::try_from(self.qos).map_err(|problem| Error::Option(problem.to_string()))?,
            devices: self.devices,
            speed,
            inflight: self.inflight,
            ack_timeout: Duration::from_secs(self.ack_timeout),
            give_up: Duration::from_secs(self.give_up),
            quiet: self.quiet,
        })
    }
}

//! `loadtest stay`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use dunlin_protocol::Version;

use super::{print, write_json};
use crate::error::Error;
use crate::fleet::{Login, TlsFiles};
use crate::stay::{self, Options};

#[derive(Debug, Args)]
pub(super) struct StayArgs {
    /// Host name or address of the broker, or of the balancer before several.
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    /// Its port.
    #[arg(long, default_value_t = 1883)]
    port: u16,
    /// Clients.
    #[arg(long, default_value_t = 1_000)]
    clients: usize,
    /// Seconds between two messages of one client.
    #[arg(long, default_value_t = 10.0)]
    interval: f64,
    /// Seconds; without it until SIGINT or SIGTERM.
    #[arg(long)]
    duration: Option<u64>,
    /// User name.
    #[arg(long)]
    user: Option<String>,
    /// Password.
    #[arg(long, env = "LOADTEST_PASSWORD", hide_env_values = true)]
    password: Option<String>,
    /// What client ids begin with; the client's number follows.
    #[arg(long, default_value = "stay-")]
    client_id_prefix: String,
    /// PEM file of the certificates to trust: connect by TLS.
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// Seconds in which all must connect at the start, and in which everything must arrive at the end.
    #[arg(long, default_value_t = 120)]
    patience: u64,
    /// Write the report as JSON too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Seconds that a session outlives its connection.
const SESSION_EXPIRY: u32 = 3_600;

pub(super) fn run(args: &StayArgs) -> Result<(), Error> {
    if !(args.interval.is_finite() && args.interval >= 0.001) {
        let text = format!("--interval {} must be 0.001 at least", args.interval);
        return Err(Error::Option(text));
    }
    let options = Options {
        login: Login {
            host: args.host.clone(),
            port: args.port,
            version: Version::V5,
            client_id_prefix: args.client_id_prefix.clone(),
            user: args.user.clone(),
            password: args.password.clone(),
            keep_alive: 0,
            session_expiry: SESSION_EXPIRY,
            tls: args.tls_ca.clone().map(|ca| TlsFiles {
                ca,
                identity: None,
                server_name: None,
            }),
        },
        clients: args.clients,
        interval: Duration::from_secs_f64(args.interval),
        duration: args.duration.map(Duration::from_secs),
        patience: Duration::from_secs(args.patience),
    };
    let io = |source| Error::Io {
        what: "cannot start the runtime".to_owned(),
        source,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(io)?;
    let report = runtime.block_on(async {
        use tokio::signal::unix::{SignalKind, signal};
        let mut interrupt = signal(SignalKind::interrupt()).map_err(io)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(io)?;
        let interrupted = async move {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        };
        let begun = || {
            // Whoever started this waits for the line; that nobody reads it is no fault.
            let _unread = print("all clients are connected\n").is_err();
        };
        stay::run(options, begun, interrupted).await
    })?;
    print(&report.to_string())?;
    if let Some(path) = &args.json {
        write_json(path, &report)?;
    }
    report.verdict()
}

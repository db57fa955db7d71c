//! The command line.

use std::{
    io::{self, BufRead, IsTerminal, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, Parser, Subcommand};

use crate::{
    admin_cli,
    auth::{password, scram, users},
    cluster_cli::{self, Ask},
    config::{self, Loaded, Override, OverrideValue, Sources, StoreConfig},
    error::{Code, Exit},
    health_cli::{self, Question},
    logging, server,
};

const AFTER_HELP: &str = "\
Configuration, each layer over the one before: defaults, the TOML file, environment variables
(DUNLIN__LIMITS__MAX_PACKET_SIZE=65536), flags. Without any, the broker listens on 127.0.0.1:1883.

Exit codes:
  0  all is done: drained after SIGTERM or SIGINT, or the command succeeded
  1  the broker failed while it ran
  2  the command line or the configuration is wrong
  3  a port could not be bound
  4  the store could not be opened
  5  clients were still connected when the time to drain was over
  6  of what was to be imported, some was refused";

/// Dunlin, an MQTT broker.
#[derive(Debug, Parser)]
#[command(name = "broker", version, after_help = AFTER_HELP, disable_help_subcommand = true)]
pub struct Cli {
    #[command(flatten)]
    settings: Settings,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Args)]
struct Settings {
    /// The configuration file, TOML
    #[arg(long, short, value_name = "FILE", env = "DUNLIN_CONFIG", global = true)]
    config: Option<PathBuf>,
    /// Listen here for plain MQTT, instead of the listeners of the file; may be repeated
    #[arg(long, short, value_name = "ADDRESS", global = true)]
    listen: Vec<String>,
    /// Keep durable state in this folder, or in "memory"
    #[arg(long, value_name = "PATH|memory", global = true)]
    store: Option<String>,
    /// Be a replica of the cluster that shares this Redis, such as redis://localhost:6379
    #[arg(long, value_name = "URL", global = true)]
    redis: Option<String>,
    /// Without the endpoint for health and metrics
    #[arg(long, global = true)]
    no_ops: bool,
    /// error, warn, info, debug or trace, or directives as in RUST_LOG
    #[arg(long, value_name = "LEVEL", global = true)]
    log_level: Option<String>,
    /// Set any key of the configuration, such as limits.max_packet_size=65536; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE", global = true)]
    set: Vec<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check the configuration and the files it names, and start nothing
    CheckConfig,
    /// Print the configuration in force as TOML, defaults included
    PrintConfig,
    /// Ask the running broker how it is, at ops.listen of the configuration: exits with 0 when well, with 1 otherwise
    Health {
        /// What is asked
        #[arg(value_enum, default_value = "ready")]
        question: Question,
        /// Ask there, whatever the configuration says
        #[arg(long, value_name = "ADDRESS")]
        address: Option<std::net::SocketAddr>,
        /// How long the answer may take
        #[arg(long, value_name = "MILLISECONDS", default_value_t = 2_000)]
        timeout_ms: u64,
    },
    /// Look at the cluster that shares the Redis of the configuration (--redis)
    Cluster {
        #[command(subcommand)]
        ask: ClusterCommand,
    },
    /// Ask a running broker about devices, and change them (admin.listen)
    Devices(admin_cli::Devices),
    /// Ask a running broker who is kept out, and keep somebody out (admin.listen)
    Bans(admin_cli::Bans),
    /// Ask a running broker about its clients (admin.listen)
    Clients(admin_cli::Clients),
    /// The tenants: their bounds, and what they use
    Tenants(admin_cli::Tenants),
    /// Make a token for the administration, print it, and add its hash to a file (admin.tokens_file)
    Token(admin_cli::Token),
    /// Set a user's password in a users file, which is made if there is none
    ///
    /// Asks for the password on a terminal, reads it as one line from standard input otherwise.
    Passwd {
        /// The users file (auth.users)
        file: PathBuf,
        /// The user's name
        user: String,
        /// Write a verifier for SCRAM-SHA-256: the user can log in by it, and with the password itself, too
        #[arg(long)]
        scram: bool,
    },
}

#[derive(Debug, Subcommand)]
enum ClusterCommand {
    /// The replicas: leases, connections, sessions
    Status,
    /// Print what replicas tell each other, until interrupted
    Tail {
        /// Also what is told to this replica alone, and its inbox
        #[arg(long, value_name = "NUMBER")]
        replica: Option<u64>,
    },
}

/// Does what the command line says.
#[must_use]
pub fn run() -> Exit {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to standard output and are no error.
            let failed = error.print().is_err() || error.use_stderr();
            return if failed { Exit::Usage } else { Exit::Ok };
        }
    };
    let Cli { settings, command } = cli;
    // What needs no configuration.
    let command = match command {
        Some(Command::Passwd { file, user, scram }) => {
            return match passwd(&file, &user, scram) {
                Ok(()) => Exit::Ok,
                Err(text) => fail(Exit::Usage, &text),
            };
        }
        Some(Command::Devices(devices)) => return devices.run(),
        Some(Command::Bans(bans)) => return bans.run(),
        Some(Command::Clients(clients)) => return clients.run(),
        Some(Command::Tenants(tenants)) => return tenants.run(),
        Some(Command::Token(token)) => return token.run(),
        other => other,
    };
    let sources = match settings.sources() {
        Ok(sources) => sources,
        Err(text) => return fail(Exit::Usage, &text),
    };
    if let Some(Command::Health {
        question,
        address,
        timeout_ms,
    }) = command
    {
        return health(&sources, question, address, timeout_ms);
    }
    let loaded = match config::load(&sources) {
        Ok(loaded) => loaded,
        Err(problems) => return fail(Exit::Usage, &problems.to_string()),
    };
    match command {
        Some(Command::CheckConfig) => check_config(&loaded),
        Some(Command::PrintConfig) => print_config(&loaded),
        Some(Command::Cluster { ask }) => cluster(&loaded, &ask),
        _ => serve(loaded, sources, settings.log_level.is_some()),
    }
}

fn fail(exit: Exit, text: &str) -> Exit {
    eprintln!("error: {text}");
    exit
}

impl Settings {
    fn sources(&self) -> Result<Sources, String> {
        let mut flags = Vec::new();
        for pair in &self.set {
            let Some((key, value)) = pair.split_once('=') else {
                return Err(format!(
                    "{} --set {pair}: must be KEY=VALUE, such as --set limits.max_inflight=100",
                    Code::Override
                ));
            };
            flags.push(text(format!("--set {key}"), key.trim(), value.trim()));
        }
        if !self.listen.is_empty() {
            let value = OverrideValue::List(self.listen.clone());
            flags.push(Override {
                flag: "--listen".to_owned(),
                key: "listen".to_owned(),
                value,
            });
        }
        match self.store.as_deref() {
            None => {}
            Some("memory") => flags.push(text("--store", "store.kind", "memory")),
            Some(path) => {
                flags.push(text("--store", "store.kind", "embedded"));
                flags.push(text("--store", "store.path", path));
            }
        }
        if let Some(url) = &self.redis {
            flags.push(text("--redis", "redis.url", url));
        }
        if self.no_ops {
            flags.push(text("--no-ops", "ops.enabled", "false"));
        }
        if let Some(level) = &self.log_level {
            flags.push(text("--log-level", "log.level", level));
        }
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
            .filter(|(name, _)| name.starts_with("DUNLIN_") && name != "DUNLIN_CONFIG")
            .map(|(name, value)| match value.into_string() {
                Ok(value) => Ok((name, value)),
                Err(_) => Err(format!(
                    "{} environment variable {name} is not UTF-8",
                    Code::Override
                )),
            })
            .collect::<Result<_, _>>()?;
        Ok(Sources {
            file: self.config.clone(),
            environment,
            flags,
        })
    }
}

fn text(flag: impl Into<String>, key: &str, value: &str) -> Override {
    Override {
        flag: flag.into(),
        key: key.to_owned(),
        value: OverrideValue::Text(value.to_owned()),
    }
}

fn check_config(loaded: &Loaded) -> Exit {
    for warning in &loaded.warnings {
        eprintln!("warning: {warning}");
    }
    let listeners = loaded.config.listeners.len();
    let warnings = loaded.warnings.len();
    say(&format!(
        "the configuration is good (listeners: {listeners}, warnings: {warnings})\n"
    ))
}

fn print_config(loaded: &Loaded) -> Exit {
    match toml::to_string(&loaded.effective) {
        Ok(text) => say(&text),
        Err(error) => fail(
            Exit::Runtime,
            &format!(
                "{} the configuration cannot be printed: {error}",
                Code::Runtime
            ),
        ),
    }
}

/// Every failure is a 1: that is what those who run it know.
fn health(
    sources: &Sources,
    question: Question,
    address: Option<std::net::SocketAddr>,
    timeout_ms: u64,
) -> Exit {
    let address =
        match address.map_or_else(|| config::ops_address(sources), |given| Ok(Some(given))) {
            Ok(Some(address)) => address,
            Ok(None) => {
                return fail(
                    Exit::Runtime,
                    "ops.enabled is false: there is nothing to ask",
                );
            }
            Err(problems) => return fail(Exit::Runtime, &problems.to_string()),
        };
    match health_cli::ask(address, question, Duration::from_millis(timeout_ms)) {
        Ok(text) => say(&text),
        Err(text) => fail(Exit::Runtime, &text),
    }
}

fn cluster(loaded: &Loaded, ask: &ClusterCommand) -> Exit {
    let StoreConfig::Redis(redis) = &loaded.config.store else {
        let text = format!(
            "{} there is no cluster: name its Redis with --redis redis://host:6379, or redis.url in the configuration",
            Code::Cluster
        );
        return fail(Exit::Usage, &text);
    };
    let ask = match ask {
        ClusterCommand::Status => Ask::Status,
        ClusterCommand::Tail { replica } => Ask::Tail(*replica),
    };
    match cluster_cli::run(redis, ask) {
        Ok(exit) => exit,
        Err(text) => fail(Exit::Store, &text),
    }
}

/// Writes to standard output; a reader that has gone away is no failure of ours.
fn say(text: &str) -> Exit {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => Exit::Ok,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Ok,
        Err(error) => fail(
            Exit::Runtime,
            &format!("{} cannot write to standard output: {error}", Code::Runtime),
        ),
    }
}

fn serve(loaded: Loaded, sources: Sources, level_by_flag: bool) -> Exit {
    let rust_log = std::env::var("RUST_LOG").ok().filter(|_| !level_by_flag);
    if let Err(error) = logging::start(&loaded.config.log, rust_log.as_deref()) {
        return fail(Exit::Usage, &format!("{} {error}", Code::Log));
    }
    logging::catch_panics();
    for warning in &loaded.warnings {
        tracing::warn!(code = %warning.code, place = warning.place.as_deref(), "{}", warning.text);
    }
    server::run(loaded, sources)
}

fn passwd(file: &Path, user: &str, scram: bool) -> Result<(), String> {
    users::check_name(user)?;
    let password = read_password(user)?;
    if password.is_empty() {
        return Err("the password is empty".to_owned());
    }
    let hash = match scram {
        true => scram::Verifier::fresh(password.as_bytes())?.show(),
        false => password::hash(password.as_bytes())?,
    };
    users::put(file, user, &hash).map_err(|error| {
        format!(
            "{} cannot write the users file {}: {error}",
            Code::UsersFile,
            file.display()
        )
    })
}

fn read_password(user: &str) -> Result<String, String> {
    let unread = |error: io::Error| format!("the password cannot be read: {error}");
    if !io::stdin().is_terminal() {
        let mut line = String::new();
        io::stdin().lock().read_line(&mut line).map_err(unread)?;
        return Ok(line.trim_end_matches(['\r', '\n']).to_owned());
    }
    let password = rpassword::prompt_password(format!("Password for {user}: ")).map_err(unread)?;
    let again = rpassword::prompt_password("Once more: ").map_err(unread)?;
    if password == again {
        Ok(password)
    } else {
        Err("the two passwords differ".to_owned())
    }
}

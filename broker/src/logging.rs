//! The log: for people on a terminal, JSON otherwise, or as Cloud Logging reads it.

use std::sync::OnceLock;

use dunlin_telemetry::log::{self, Format, Log, Program};
use tracing_subscriber::{EnvFilter, util::TryInitError};

use crate::{
    config::{LogConfig, LogFormat},
    error::Code,
};

/// What this program is called in logs and traces.
pub const PROGRAM: Program = Program {
    name: "broker",
    version: env!("CARGO_PKG_VERSION"),
};

/// The log that was started: there is one in a process.
static LOG: OnceLock<Log> = OnceLock::new();

/// Whether a level, or a list of directives, can be understood.
///
/// # Errors
/// What is wrong with it.
pub fn check_level(level: &str) -> Result<(), String> {
    let levels = "must be error, warn, info, debug, trace or off, or directives such as \"info,dunlin_broker::net=debug\"";
    // A lone word that is no level would be taken for the name of a module, and nothing be logged.
    let lone_word = !level.contains(['=', ',']);
    if lone_word
        && level
            .parse::<tracing_subscriber::filter::LevelFilter>()
            .is_err()
    {
        return Err(levels.to_owned());
    }
    EnvFilter::try_new(level)
        .map(|_| ())
        .map_err(|error| format!("{levels} ({error})"))
}

/// A lone level is meant for the broker: what libraries tell each other is shown from `warn` up, and
/// from `error` up where they warn of what clients do.
fn directives(level: &str) -> String {
    match level {
        "warn" | "info" | "debug" | "trace" => format!("warn,rustls=error,dunlin={level}"),
        other => other.to_owned(),
    }
}

/// Starts the log on standard error. `RUST_LOG`, when given, replaces the configured level.
///
/// # Errors
/// When the level cannot be understood, or a log has been started before.
pub fn start(config: &LogConfig, rust_log: Option<&str>) -> Result<(), LogError> {
    let level = rust_log
        .filter(|level| !level.is_empty())
        .unwrap_or(&config.level);
    let format = match config.format {
        LogFormat::Auto => Format::Auto,
        LogFormat::Human => Format::Human,
        LogFormat::Json => Format::Json,
        LogFormat::Cloud => Format::Cloud,
    };
    let log = log::start(filter(level)?, format, PROGRAM)?;
    // What the environment says wins over the configuration, later ones too.
    if level == config.level {
        LOG.get_or_init(|| log);
    }
    Ok(())
}

/// Changes the level, or the directives, of the log that was started. Does nothing when none was,
/// or when `RUST_LOG` says it.
///
/// # Errors
/// When the level cannot be understood; it stays as it was.
pub fn set_level(level: &str) -> Result<(), LogError> {
    let filter = filter(level)?;
    if let Some(log) = LOG.get() {
        log.set_filter(filter);
    }
    Ok(())
}

fn filter(level: &str) -> Result<EnvFilter, LogError> {
    check_level(level).map_err(LogError::Level)?;
    EnvFilter::try_new(directives(level)).map_err(|error| LogError::Level(error.to_string()))
}

/// Has panics written to the log, with their place: a task that dies of one is otherwise silent.
pub fn catch_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        tracing::error!(
            code = %Code::Defect,
            critical = true,
            thread = thread.name(),
            place = panic.location().map(tracing::field::display),
            "a defect of the program ended a task: {}",
            panic.payload_as_str().unwrap_or("no message"),
        );
    }));
}

/// The log could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The level cannot be understood.
    #[error("the log level {0}")]
    Level(String),
    /// A log has been started before.
    #[error(transparent)]
    Started(#[from] TryInitError),
}

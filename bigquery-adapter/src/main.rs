//! The `bigquery-adapter` binary.

use std::process::ExitCode;

use clap::Parser;
use dunlin_bigquery_adapter::cli::{Cli, Command};
use dunlin_bigquery_adapter::config::{Config, Path};
use dunlin_bigquery_adapter::error::Code;
use dunlin_bigquery_adapter::{commands, logging, run};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

/// The allocator of musl takes a lock that all threads share.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Threads for BigQuery's partitions at the most.
const MAX_THREADS: usize = 4;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let (check, print) = (cli.check_config, cli.print_config);
    let command = cli.command.clone();
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let config = match Config::load(&cli.layers(environment)) {
        Ok(config) => config,
        Err(problems) => {
            for problem in problems {
                eprintln!("{problem}");
            }
            return ExitCode::from(2);
        }
    };
    if print {
        return show(&config.to_toml());
    }
    if check {
        return show("the configuration is valid\n");
    }
    logging::start(&config.log_filter, config.log_format);
    if let Some(command) = command {
        return at_once(&command, &config);
    }
    match serve(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure,
    }
}

fn at_once(command: &Command, config: &Config) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let done = match runtime {
        Ok(runtime) => runtime.block_on(commands::run(command, config)),
        Err(error) => Err(format!("a thread could not be started: {error}")),
    };
    match done {
        Ok(text) => show(&text),
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::from(1)
        }
    }
}

fn serve(config: Config) -> Result<(), ExitCode> {
    let mut builder = match &config.path {
        // Rows are encoded by the tasks of the partitions.
        Path::TapToBigQuery(..) => {
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
            builder.worker_threads(cores.min(MAX_THREADS));
            builder
        }
        // The source is one connection and the sink has threads of its own: one thread here is enough.
        _ => tokio::runtime::Builder::new_current_thread(),
    };
    let runtime = builder.enable_all().build();
    let runtime = runtime.map_err(|error| failed(Code::SINK_STOPPED, &error))?;
    let result = runtime.block_on(async {
        let signals = (
            signal(SignalKind::terminate()),
            signal(SignalKind::interrupt()),
            signal(SignalKind::hangup()),
        );
        let (Ok(terminate), Ok(interrupt), Ok(hangup)) = signals else {
            return Err(failed(
                Code::SINK_STOPPED,
                &"signals cannot be listened for",
            ));
        };
        let ((stop, shutdown), (again, reload)) = (watch::channel(false), watch::channel(0));
        let listening = tokio::spawn(listen(terminate, interrupt, stop));
        let reading = tokio::spawn(read_again(hangup, again));
        let result = run::run(config, run::Told { shutdown, reload })
            .await
            .map_err(|error| {
                failed(error.code(), &error);
                error.exit_code()
            });
        listening.abort();
        reading.abort();
        result
    });
    // A sink that hangs must not keep the process.
    runtime.shutdown_background();
    result
}

/// The first signal ends the adapter in order, a second one at once.
async fn listen(mut terminate: Signal, mut interrupt: Signal, stop: watch::Sender<bool>) {
    loop {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        if stop.send_replace(true) {
            tracing::warn!(
                "second signal: ending at once; what is not acknowledged comes again from the broker"
            );
            std::process::exit(1);
        }
    }
}

/// SIGHUP: the rules are read again.
async fn read_again(mut hangup: Signal, again: watch::Sender<u64>) {
    while hangup.recv().await.is_some() {
        again.send_modify(|times| *times += 1);
    }
}

fn failed(code: Code, error: &dyn std::fmt::Display) -> ExitCode {
    tracing::error!(code = code.as_str(), "{error}");
    ExitCode::from(1)
}

fn show(text: &str) -> ExitCode {
    use std::io::Write;
    // A reader who has gone away is no failure of ours.
    drop(std::io::stdout().write_all(text.as_bytes()));
    ExitCode::SUCCESS
}

//! The `bigquery-adapter` binary.

use std::process::ExitCode;

use clap::Parser;
use dunlin_bigquery_adapter::cli::Cli;
use dunlin_bigquery_adapter::config::Config;
use dunlin_bigquery_adapter::error::Code;
use dunlin_bigquery_adapter::{logging, run};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let (check, print) = (cli.check_config, cli.print_config);
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
    match serve(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure,
    }
}

fn serve(config: Config) -> Result<(), ExitCode> {
    // The source is one connection and the sink has threads of its own: one thread here is enough.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| failed(Code::SINK_STOPPED, &error))?;
    let result = runtime.block_on(async {
        let signals = (
            signal(SignalKind::terminate()),
            signal(SignalKind::interrupt()),
        );
        let (Ok(terminate), Ok(interrupt)) = signals else {
            return Err(failed(
                Code::SINK_STOPPED,
                &"signals cannot be listened for",
            ));
        };
        let (stop, shutdown) = watch::channel(false);
        let listening = tokio::spawn(listen(terminate, interrupt, stop));
        let result = run::run(config, shutdown).await.map_err(|error| {
            failed(error.code(), &error);
            error.exit_code()
        });
        listening.abort();
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

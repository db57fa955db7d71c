//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

use crate::config::Layers;

/// Stores MQTT messages as rows of a warehouse: Parquet files, or BigQuery.
///
/// Reads a tap of a cluster, or subscribes to topic filters with a persistent session, and acknowledges a message only when
/// its row is durable.
/// Settings come from a TOML file, then environment variables (DUNLIN_ADAPTER__MQTT__URL for mqtt.url), then flags.
#[derive(Debug, Parser)]
#[command(name = "bigquery-adapter", version, after_help = EXIT_CODES)]
pub struct Cli {
    /// TOML file with settings.
    #[arg(long, value_name = "FILE", env = "DUNLIN_ADAPTER_CONFIG")]
    pub config: Option<PathBuf>,
    /// Where messages come from: mqtt or tap.
    #[arg(long, value_name = "SOURCE")]
    pub source: Option<String>,
    /// Where rows go to: parquet or bigquery.
    #[arg(long, value_name = "SINK")]
    pub sink: Option<String>,
    /// Redis of the brokers, for a tap.
    #[arg(long, value_name = "URL")]
    pub redis: Option<String>,
    /// Name of the tap.
    #[arg(long, value_name = "NAME")]
    pub tap: Option<String>,
    /// TOML file with rules: which message becomes a row of which table.
    #[arg(long, value_name = "FILE")]
    pub rules: Option<String>,
    /// Project of Google Cloud.
    #[arg(long, value_name = "ID")]
    pub project: Option<String>,
    /// Dataset of BigQuery.
    #[arg(long, value_name = "ID")]
    pub dataset: Option<String>,
    /// Broker, `mqtt://host[:port]` or `mqtts://host[:port]`.
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
    /// Topic filter to subscribe to; may be given several times.
    #[arg(long = "filter", value_name = "FILTER")]
    pub filters: Vec<String>,
    /// QoS to subscribe with: 0, 1 or 2.
    #[arg(long, value_name = "QOS")]
    pub qos: Option<String>,
    /// Client id; every adapter on a broker needs its own.
    #[arg(long, value_name = "ID")]
    pub client_id: Option<String>,
    /// User name.
    #[arg(long, value_name = "NAME")]
    pub username: Option<String>,
    /// File with the password.
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<String>,
    /// Directory of the warehouse.
    #[arg(long, value_name = "DIR")]
    pub warehouse: Option<String>,
    /// Address of health and metrics, or "off".
    #[arg(long, value_name = "ADDRESS")]
    pub ops_listen: Option<String>,
    /// What is logged: error, warn, info, debug, trace, or directives.
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// How it is logged: auto, text or json.
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// Any setting, such as --set parquet.roll_ms=1000.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_and_value)]
    pub set: Vec<(String, String)>,
    /// Something to be done at once, instead of running.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Check the configuration and end.
    #[arg(long)]
    pub check_config: bool,
    /// Print the effective configuration, secrets masked, and end.
    #[arg(long)]
    pub print_config: bool,
}

/// What ends by itself.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Who reads the tap and how far it is behind, partition by partition, as Redis has it; and what the adapter that runs with this configuration says of
    /// itself: readiness, rows, retries.
    Status {
        /// For programs.
        #[arg(long)]
        json: bool,
    },
    /// Whether the adapter that runs with this configuration is well: exit code 0, or 1 with the reasons. For the health checks of containers.
    Health {
        /// Ready to work, or merely alive.
        #[arg(default_value = "ready")]
        what: Wellness,
    },
    /// Messages that fit no table.
    #[command(subcommand)]
    DeadLetters(LetterCommand),
}

/// What an adapter is asked about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Wellness {
    /// It reads, and the sink takes rows.
    Ready,
    /// The process answers.
    Live,
}

/// What is done with dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
pub enum LetterCommand {
    /// Lists those whose messages are not in their tables, with the reason.
    List {
        /// Letters of each table, at most.
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// Makes rows of them again, by the rules as they are now, and stores those that fit. May be repeated; one at a time.
    Replay,
}

const EXIT_CODES: &str = "Exit codes:
  0  ended by SIGTERM or SIGINT, everything read is stored
  1  a failure while running
  2  wrong usage or configuration
  3  the address for health and metrics cannot be bound
  4  the warehouse cannot be opened
  5  the tap cannot be read
  6  BigQuery, or a table in it, is not as it must be";

fn key_and_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("it must be KEY=VALUE")?;
    Ok((key.trim().to_owned(), value.to_owned()))
}

impl Cli {
    /// The layers that the command line and the environment make.
    #[must_use]
    pub fn layers(self, environment: impl Iterator<Item = (String, String)>) -> Layers {
        let mut flags = Vec::new();
        let mut flag = |flag: &str, key: &str, values: Vec<String>| {
            if !values.is_empty() {
                flags.push((flag.to_owned(), key.to_owned(), values));
            }
        };
        let one = |value: Option<String>| value.into_iter().collect::<Vec<_>>();
        for (key, value) in self.set {
            flag("--set", &key, vec![value]);
        }
        flag("--source", "adapter.source", one(self.source));
        flag("--sink", "adapter.sink", one(self.sink));
        flag("--redis", "redis.url", one(self.redis));
        flag("--tap", "tap.name", one(self.tap));
        flag("--rules", "rules.file", one(self.rules));
        flag("--project", "bigquery.project", one(self.project));
        flag("--dataset", "bigquery.dataset", one(self.dataset));
        flag("--url", "mqtt.url", one(self.url));
        flag("--qos", "mqtt.qos", one(self.qos));
        flag("--client-id", "mqtt.client_id", one(self.client_id));
        flag("--username", "mqtt.username", one(self.username));
        flag(
            "--password-file",
            "mqtt.password_file",
            one(self.password_file),
        );
        flag("--warehouse", "parquet.path", one(self.warehouse));
        flag("--ops-listen", "ops.listen", one(self.ops_listen));
        flag("--log-level", "log.level", one(self.log_level));
        flag("--log-format", "log.format", one(self.log_format));
        flag("--filter", "mqtt.filters", self.filters);
        Layers {
            file: self.config,
            environment: environment.collect(),
            flags,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::config::Config;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_reaches_its_setting() {
        let arguments = "bigquery-adapter --url mqtt://h:5 --filter a/# --filter b --qos 2 --client-id me --username u \
                         --warehouse w --ops-listen off --log-level debug --log-format json --set parquet.roll_ms=70";
        let config =
            Config::load(&Cli::parse_from(arguments.split_whitespace()).layers(std::iter::empty()))
                .unwrap();
        let text = config.to_toml();
        for line in [
            "url = \"mqtt://h:5\"",
            "filters = [\"a/#\", \"b\"]",
            "qos = 2",
            "client_id = \"me\"",
            "username = \"u\"",
            "path = \"w\"",
            "listen = \"off\"",
            "level = \"debug\"",
            "format = \"json\"",
            "roll_ms = 70",
        ] {
            assert!(text.contains(line), "{line} is missing in:\n{text}");
        }
    }

    #[test]
    fn a_filter_with_a_comma_may_be_given_alone_as_a_list_of_one() {
        let one =
            Cli::parse_from(["bigquery-adapter", "--filter", "a/#"]).layers(std::iter::empty());
        assert_eq!(Config::load(&one).unwrap().mqtt.filters, ["a/#"]);
    }
}

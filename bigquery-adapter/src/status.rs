//! `bigquery-adapter status`: the whole tap as Redis has it, whoever reads it, and the adapter that runs with the same configuration.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use dunlin_sync::cluster::Backplane;
use dunlin_sync::cluster::redis::RedisBackplane;
use dunlin_sync::cluster::tap::{PartitionState, TapState, look};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::cli::Wellness;
use crate::config::{Config, Path};
use crate::sinks::parquet::micros;
use crate::sources::tap::Settings;

/// How long the running adapter, or Redis, may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is told of the adapter that runs here.
const SHOWN: [&str; 5] = [
    "tap_",
    "bigquery_",
    "dead_letters",
    "committed_rows",
    "source_connected",
];

/// What the adapter that runs with this configuration says of itself.
#[derive(Debug)]
struct Local {
    address: SocketAddr,
    ready: String,
    metrics: Vec<(String, String)>,
}

/// Asks, and gives what is to be printed.
///
/// # Errors
/// Nobody answers: neither Redis, where there is a tap, nor, where there is none, the adapter.
pub async fn status(config: &Config, as_json: bool) -> Result<String, String> {
    let local = local(config).await;
    let tap = match &config.path {
        Path::MqttToParquet => None,
        Path::TapToParquet(settings) | Path::TapToBigQuery(settings, _) => {
            Some(tap(settings).await?)
        }
    };
    let now = u64::try_from(micros(SystemTime::now())).unwrap_or(0);
    if as_json {
        let local = match local {
            Ok(local) => local.json(),
            Err(reason) if tap.is_none() => return Err(reason),
            Err(_) => Value::Null,
        };
        let tap = tap.map_or(Value::Null, |tap| tap_json(&tap, now));
        return Ok(format!("{:#}\n", json!({"tap": tap, "adapter": local})));
    }
    let mut text = String::new();
    if let Some(tap) = &tap {
        text.push_str(&tap_text(tap, now));
    }
    match local {
        Ok(local) => text.push_str(&local.text()),
        Err(reason) if tap.is_some() => text.push_str(&format!("{reason}\n")),
        Err(reason) => return Err(reason),
    }
    Ok(text)
}

async fn tap(settings: &Settings) -> Result<TapState, String> {
    let (name, url) = (&settings.name, &settings.shown_url);
    let handle = tokio::runtime::Handle::current();
    let backplane = RedisBackplane::start(settings.redis.clone(), handle);
    let backplane = Arc::new(backplane.map_err(|error| format!("{error}; check redis.url"))?);
    let asked = timeout(PATIENCE, look(&*backplane, name)).await;
    let problem = backplane.status().last_error;
    backplane.close().await;
    match asked {
        Ok(Ok(Some(state))) => Ok(state),
        Ok(Ok(None)) => Err(format!(
            "Redis at {url} has no tap called {name:?}: it is made when an adapter starts; check redis.prefix and tap.name"
        )),
        Ok(Err(error)) => Err(format!("the tap cannot be looked at: {error}")),
        Err(_) => Err(format!(
            "Redis at {url} does not answer: {}; check redis.url",
            problem.unwrap_or_else(|| "no answer".to_owned())
        )),
    }
}

fn seconds_behind(partition: &PartitionState, now: u64) -> Option<f64> {
    let behind = Duration::from_micros(now.saturating_sub(partition.oldest_at?));
    Some(behind.as_secs_f64())
}

/// An adapter's number as it is in its log and its metrics.
#[must_use]
pub fn adapter_name(consumer: u64) -> String {
    format!("{consumer:016x}")
}

fn tap_text(tap: &TapState, now: u64) -> String {
    let mut text = String::new();
    let definition = &tap.definition;
    let filters: Vec<&str> = definition.filters.iter().map(|filter| &**filter).collect();
    let head = format!(
        "tap {}: {} partitions, {} adapters, filters {}\n",
        definition.name,
        definition.partitions,
        tap.consumers.len(),
        filters.join(" ")
    );
    text.push_str(&head);
    let mut row = |cells: [&str; 8]| {
        let [
            partition,
            adapter,
            epoch,
            acknowledged,
            messages,
            bytes,
            seconds,
            dropped,
        ] = cells;
        // Writing to a String does not fail.
        let _written = writeln!(
            text,
            "{partition:>9}  {adapter:<16}  {epoch:>6}  {acknowledged:>13}  {messages:>10}  {bytes:>12}  {seconds:>8}  {dropped:>8}"
        );
    };
    row([
        "partition",
        "adapter",
        "epoch",
        "acknowledged",
        "waiting",
        "bytes",
        "seconds",
        "dropped",
    ]);
    for partition in &tap.partitions {
        let level = partition.level;
        let adapter = partition.consumer.map_or("-".to_owned(), adapter_name);
        let seconds = seconds_behind(partition, now);
        row([
            &partition.partition.to_string(),
            &adapter,
            &partition.epoch.to_string(),
            &level.acknowledged.to_string(),
            &level.messages.to_string(),
            &level.bytes.to_string(),
            &seconds.map_or("-".to_owned(), |seconds| format!("{seconds:.1}")),
            &level.dropped.to_string(),
        ]);
    }
    let levels = || tap.partitions.iter().map(|partition| partition.level);
    let behind = tap
        .partitions
        .iter()
        .filter_map(|partition| seconds_behind(partition, now));
    row([
        "all",
        "",
        "",
        "",
        &levels()
            .map(|level| level.messages)
            .sum::<u64>()
            .to_string(),
        &levels().map(|level| level.bytes).sum::<u64>().to_string(),
        &format!("{:.1}", behind.fold(0.0, f64::max)),
        &levels().map(|level| level.dropped).sum::<u64>().to_string(),
    ]);
    for consumer in &tap.consumers {
        let theirs = tap
            .partitions
            .iter()
            .filter(|partition| partition.consumer == Some(*consumer));
        let theirs: Vec<String> = theirs
            .map(|partition| partition.partition.to_string())
            .collect();
        let _written = writeln!(
            text,
            "adapter {}: partitions {}",
            adapter_name(*consumer),
            if theirs.is_empty() {
                "none".to_owned()
            } else {
                theirs.join(" ")
            }
        );
    }
    text
}

fn tap_json(tap: &TapState, now: u64) -> Value {
    let definition = &tap.definition;
    let partitions = tap.partitions.iter().map(|partition| {
        let level = partition.level;
        json!({
            "partition": partition.partition,
            "adapter": partition.consumer.map(adapter_name),
            "epoch": partition.epoch,
            "lease_left_ms": u64::try_from(partition.lease_left.as_millis()).unwrap_or(u64::MAX),
            // The first one that is not stored, and the next one that comes.
            "acknowledged": level.acknowledged,
            "tail": level.tail,
            "lag_messages": level.messages,
            "lag_bytes": level.bytes,
            "lag_seconds": seconds_behind(partition, now).unwrap_or(0.0),
            "dropped": level.dropped,
        })
    });
    let filters: Vec<&str> = definition.filters.iter().map(|filter| &**filter).collect();
    let adapters = tap.consumers.iter().copied().map(adapter_name);
    json!({
        "name": &*definition.name,
        "filters": filters,
        "max_messages": definition.max_messages,
        "max_bytes": definition.max_bytes,
        "adapters": adapters.collect::<Vec<_>>(),
        "partitions": partitions.collect::<Vec<_>>(),
    })
}

/// `bigquery-adapter health`: whether the adapter that runs with this configuration is well; for the health checks of containers.
///
/// # Errors
/// Why it is not, or that it does not answer.
pub async fn health(config: &Config, what: Wellness) -> Result<String, String> {
    let path = match what {
        Wellness::Ready => "/health/ready",
        Wellness::Live => "/health/live",
    };
    let (well, text) = Asked::new(config)?.get(path).await?;
    if well {
        Ok(text)
    } else {
        Err(text.trim_end().to_owned())
    }
}

/// The adapter that runs here, as it is asked over HTTP.
struct Asked {
    address: SocketAddr,
    http: reqwest::Client,
}

impl Asked {
    fn new(config: &Config) -> Result<Self, String> {
        let mut address = config
            .ops
            .ok_or("ops.listen is \"off\": the adapter here cannot be asked")?;
        // Listening everywhere is listening here.
        match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
            IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
            _ => {}
        }
        // A proxy is for others, not for this machine.
        let http = reqwest::Client::builder().timeout(PATIENCE).no_proxy();
        let http = http.build().map_err(|error| error.to_string())?;
        Ok(Self { address, http })
    }

    /// Whether the answer was good, and its text.
    async fn get(&self, path: &str) -> Result<(bool, String), String> {
        let unanswered = |error: reqwest::Error| {
            format!(
                "no adapter answers at {} (ops.listen): {error:#}",
                self.address
            )
        };
        let url = format!("http://{}{path}", self.address);
        let answer = self.http.get(url).send().await.map_err(unanswered)?;
        let good = answer.status().is_success();
        Ok((good, answer.text().await.map_err(unanswered)?))
    }
}

async fn local(config: &Config) -> Result<Local, String> {
    let asked = Asked::new(config)?;
    let (_, ready) = asked.get("/health/ready").await?;
    let (_, metrics) = asked.get("/metrics").await?;
    let metrics = metrics.lines().filter_map(|line| {
        let (name, value) = line.strip_prefix("dunlin_adapter_")?.rsplit_once(' ')?;
        let shown = SHOWN.iter().any(|prefix| name.starts_with(prefix));
        shown.then(|| (name.to_owned(), value.to_owned()))
    });
    Ok(Local {
        address: asked.address,
        ready: ready.trim_end().to_owned(),
        metrics: metrics.collect(),
    })
}

impl Local {
    fn text(&self) -> String {
        let mut text = format!("the adapter at {}: {}\n", self.address, self.ready);
        for (name, value) in &self.metrics {
            let _written = writeln!(text, "{name} {value}");
        }
        text
    }

    fn json(&self) -> Value {
        let metrics = self.metrics.iter().map(|(name, value)| {
            let number = value
                .parse::<f64>()
                .ok()
                .and_then(serde_json::Number::from_f64);
            (name.clone(), number.map_or(Value::Null, Value::Number))
        });
        json!({
            "address": self.address.to_string(),
            "ready": self.ready,
            "metrics": Value::Object(metrics.collect()),
        })
    }
}

#[cfg(test)]
mod tests {
    use dunlin_sync::cluster::tap::{Definition, TapLevel};

    use super::*;

    fn state() -> TapState {
        let mut definition = Definition::new("warehouse", ["a/#", "b"]);
        definition.partitions = 2;
        let level = |messages| TapLevel {
            acknowledged: 12,
            tail: 12 + messages,
            messages,
            bytes: messages * 100,
            dropped: 0,
        };
        let partition = |partition, consumer, messages, oldest_at| PartitionState {
            partition,
            consumer,
            epoch: 3,
            lease_left: Duration::from_secs(9),
            level: level(messages),
            oldest_at,
        };
        TapState {
            definition,
            consumers: vec![0xab, 0xcd],
            partitions: vec![
                partition(0, Some(0xab), 0, None),
                partition(1, None, 40, Some(5_000_000)),
            ],
        }
    }

    #[test]
    fn people_see_who_has_what_and_how_far_behind_it_is() {
        let text = tap_text(&state(), 12_500_000);
        let lines: Vec<&str> = text.lines().collect();
        let words = |line: usize| lines[line].split_whitespace().collect::<Vec<_>>();
        assert_eq!(
            lines[0],
            "tap warehouse: 2 partitions, 2 adapters, filters a/# b"
        );
        assert_eq!(
            words(2),
            ["0", "00000000000000ab", "3", "12", "0", "0", "-", "0"]
        );
        assert_eq!(words(3), ["1", "-", "3", "12", "40", "4000", "7.5", "0"]);
        assert_eq!(words(4), ["all", "40", "4000", "7.5", "0"]);
        assert_eq!(lines[5], "adapter 00000000000000ab: partitions 0");
        assert_eq!(lines[6], "adapter 00000000000000cd: partitions none");
        assert_eq!(lines.len(), 7);
    }

    #[test]
    fn programs_see_the_same() {
        let value = tap_json(&state(), 12_500_000);
        assert_eq!(value["adapters"][1], "00000000000000cd");
        assert_eq!(value["partitions"][1]["adapter"], Value::Null);
        assert_eq!(value["partitions"][1]["lag_seconds"], 7.5);
        assert_eq!(value["partitions"][1]["tail"], 52);
        assert_eq!(value["partitions"][0]["adapter"], "00000000000000ab");
    }
}

//! `broker cluster status` and `broker cluster tail`: what an operator sees of a cluster.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use dunlin_sync::cluster::redis::RedisBackplane;
use dunlin_sync::cluster::{
    Backplane, BackplaneEvent, RegistryEntry, ReplicaId, Reply, Request, frame,
};

use crate::config::RedisConfig;
use crate::error::{Code, Exit};
use crate::replica::redis_options;

/// How long Redis is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is asked of the cluster.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ask {
    /// Replicas, leases, connections.
    Status,
    /// Frames as they come, and those for one replica.
    Tail(Option<u64>),
}

/// Does it. The text of a failure says what to do.
pub(crate) fn run(config: &RedisConfig, ask: Ask) -> Result<Exit, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("{} no runtime: {error}", Code::Runtime))?;
    runtime.block_on(async {
        let options =
            redis_options(config).map_err(|error| format!("{} {error}", Code::Cluster))?;
        let backplane = RedisBackplane::start(options, tokio::runtime::Handle::current())
            .map_err(|error| format!("{} {error}", Code::Cluster))?;
        let backplane = Arc::new(backplane);
        let done = match ask {
            Ask::Status => status(&backplane).await,
            Ask::Tail(replica) => tail(&backplane, replica).await,
        };
        backplane.close().await;
        done
    })
}

fn unanswered(backplane: &RedisBackplane) -> String {
    let why = backplane
        .status()
        .last_error
        .unwrap_or_else(|| "no answer".to_owned());
    format!("{} Redis does not answer: {why}", Code::Cluster)
}

async fn status(backplane: &Arc<RedisBackplane>) -> Result<Exit, String> {
    let asked = std::time::Instant::now();
    let replies = tokio::time::timeout(PATIENCE, backplane.execute(vec![Request::Registry])).await;
    let took = asked.elapsed();
    let replies = replies.map_err(|_| unanswered(backplane))?;
    match replies.into_iter().next() {
        Some(Ok(Reply::Registry(entries))) => {
            let text = table(&entries, &backplane.status().masters, took);
            Ok(say(&text))
        }
        Some(Err(error)) => Err(format!("{} {error}", Code::Cluster)),
        _ => Err(unanswered(backplane)),
    }
}

fn table(entries: &[RegistryEntry], masters: &[String], took: Duration) -> String {
    let mut text = format!(
        "Redis: {} ({:.1} ms)\n",
        masters.join(", "),
        took.as_secs_f64() * 1000.0
    );
    if entries.is_empty() {
        text.push_str("No replica.\n");
        return text;
    }
    text.push_str(&format!(
        "{:>8}  {:<24} {:>8}  {:<10} {:>9} {:>11} {:>9} {:>9} {:>13}\n",
        "replica",
        "host",
        "pid",
        "version",
        "lease ms",
        "connections",
        "sessions",
        "retained",
        "pending bytes"
    ));
    let mut connections = 0;
    for entry in entries {
        let info = String::from_utf8_lossy(&entry.info);
        let info: BTreeMap<&str, &str> = info
            .lines()
            .filter_map(|line| line.split_once('='))
            .collect();
        let field = |name| info.get(name).copied().unwrap_or("?");
        connections += field("connections").parse::<u64>().unwrap_or(0);
        let lease = match entry.lease_ms {
            0 => "lapsed".to_owned(),
            ms => ms.to_string(),
        };
        text.push_str(&format!(
            "{:>8}  {:<24} {:>8}  {:<10} {:>9} {:>11} {:>9} {:>9} {:>13}\n",
            entry.replica.0,
            field("host"),
            field("pid"),
            field("version"),
            lease,
            field("connections"),
            field("sessions"),
            field("retained"),
            field("pending_bytes"),
        ));
    }
    let live = entries.iter().filter(|entry| entry.lease_ms > 0).count();
    text.push_str(&format!(
        "{live} of {} replicas live, {connections} connections\n",
        entries.len()
    ));
    text
}

async fn tail(backplane: &Arc<RedisBackplane>, replica: Option<u64>) -> Result<Exit, String> {
    // No replica has this number: nothing but `sync` is heard.
    let mut events = backplane.listen(ReplicaId(replica.unwrap_or(u64::MAX)));
    let first = tokio::time::timeout(PATIENCE, events.recv()).await;
    let mut event = first.map_err(|_| unanswered(backplane))?;
    while let Some(now) = event {
        let exit = match now {
            BackplaneEvent::Frame(bytes) => say(&format!("{}\n", frame::describe(&bytes))),
            BackplaneEvent::Inbox((ms, n), bytes) => {
                say(&format!("inbox {ms}-{n} {}\n", frame::describe(&bytes)))
            }
            BackplaneEvent::Listening => say("# listening\n"),
            BackplaneEvent::Deaf => say("# the connection is lost: what is said now is missed\n"),
            BackplaneEvent::Failover => say("# failover of Redis\n"),
        };
        if exit != Exit::Ok {
            return Ok(exit);
        }
        event = events.recv().await;
    }
    Ok(Exit::Ok)
}

/// Writes to standard output; whoever reads may have gone away.
fn say(text: &str) -> Exit {
    match io::stdout()
        .write_all(text.as_bytes())
        .and_then(|()| io::stdout().flush())
    {
        Ok(()) => Exit::Ok,
        Err(_) => Exit::Runtime,
    }
}

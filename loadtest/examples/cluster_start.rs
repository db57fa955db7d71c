//! How long a replica takes to start over a Redis that is full, and what it weighs then.
//!
//! Starts the first process of a cluster file (Redis), fills it with retained messages and persistent
//! sessions, starts the replicas of the file one after the other, each when the one before is ready, and asks each of
//! them for one session and one retained message that only the tables can know.
//!
//! ```sh
//! cargo run --release -p dunlin-loadtest --example cluster_start -- --sessions 1000000 --retained 1000000
//! ```

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use clap::Parser;
use dunlin_loadtest::bench::{BrokerSpec, Launch, Machine, Started};
use dunlin_loadtest::proc::{MachineTime, Usage};
use dunlin_protocol::{
    Connect, Packet, PacketId, PropertiesBuf, Property, QoS, Sender, Subscribe,
    SubscribeFiltersBuf, SubscribeOptions, Version, decode, peek_frame,
};
use dunlin_sync::cluster::frame::{Kind, head};
use dunlin_sync::cluster::redis::{RedisBackplane, RedisOptions};
use dunlin_sync::cluster::{
    Backplane, Bucket, Epoch, ReplicaId, Replies, Reply, Request, SessionEntry,
};
use dunlin_sync::{Message, MessageParts, SubscriptionRecord};
use serde::Serialize;

/// Requests of one batch, and batches under way: bounds what waits for Redis.
const BATCH: usize = 1000;
const UNDER_WAY: usize = 4;
/// An answer of a replica may take so long.
const PATIENCE: Duration = Duration::from_secs(30);
/// The greatest packet that is expected.
const PACKET_MAX: u32 = 64 * 1024;

/// Measures the start of replicas over a full Redis.
#[derive(Debug, Parser)]
struct Args {
    /// The cluster: Redis first, then replicas.
    #[arg(long, default_value = "loadtest/scenarios/clusters/start.toml")]
    file: PathBuf,
    /// Persistent sessions, each with one subscription at QoS 1.
    #[arg(long, default_value_t = 1_000_000)]
    sessions: u64,
    /// Retained messages.
    #[arg(long, default_value_t = 1_000_000)]
    retained: u64,
    /// Bytes of a retained payload.
    #[arg(long, default_value_t = 64)]
    payload: usize,
    /// Print JSON in place of text.
    #[arg(long)]
    json: bool,
}

/// What was found. Times in seconds, memory in bytes.
#[derive(Debug, Serialize)]
struct Report {
    machine: Machine,
    sessions: u64,
    retained: u64,
    payload_bytes: usize,
    fill_s: f64,
    redis_memory: u64,
    redis_rss: u64,
    replicas: Vec<Ready>,
}

/// One replica when it is ready.
#[derive(Debug, Serialize)]
struct Ready {
    name: String,
    ready_s: f64,
    cpu_s: f64,
    redis_cpu_s: f64,
    rss: u64,
    rss_peak: u64,
    /// Part of all processors' time, from 0 to 1, that neither it nor Redis used, but somebody else.
    others: f64,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let machine = Machine::look();
    let spec = BrokerSpec::open(&args.file)?;
    let mut launch = Launch::new(&spec, None)?;
    let redis = launch.start_next()?.context("the file has no process")?;
    let begin = Instant::now();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let full = runtime.block_on(fill(&args, redis.port))?;
    // Nothing of it is to be in the way of what is measured.
    drop(runtime);
    let mut report = Report {
        machine,
        sessions: args.sessions,
        retained: args.retained,
        payload_bytes: args.payload,
        fill_s: begin.elapsed().as_secs_f64(),
        redis_memory: redis_memory(redis.port)?,
        redis_rss: Usage::read(redis.pid)?.rss,
        replicas: Vec::new(),
    };
    loop {
        let (before, machine) = (Usage::read(redis.pid)?, MachineTime::read());
        let Some(replica) = launch.start_next()? else {
            break;
        };
        let found = Usage::read(replica.pid)?;
        let redis = Usage::read(redis.pid)?.since(before);
        let known = found.cpu_ns + redis.cpu_ns;
        report.replicas.push(Ready {
            name: replica.name.clone(),
            ready_s: replica.took.as_secs_f64(),
            cpu_s: found.cpu_ns as f64 / 1e9,
            redis_cpu_s: redis.cpu_ns as f64 / 1e9,
            rss: found.rss,
            rss_peak: rss_peak(replica.pid)?,
            others: MachineTime::read().others_since(machine, known),
        });
        prove(&replica, &full)?;
    }
    let text = if args.json {
        serde_json::to_string_pretty(&report)? + "\n"
    } else {
        report.to_text()
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

/// Something that a replica can only know from its tables.
struct Full {
    client: Option<String>,
    topic: Option<String>,
}

fn client(number: u64) -> String {
    format!("device-{number:07}")
}

fn topic(number: u64) -> String {
    format!("fleet/device-{number:07}/state")
}

async fn fill(args: &Args, port: u16) -> anyhow::Result<Full> {
    let options = RedisOptions {
        ring_bytes: 0,
        ..RedisOptions::new(format!("redis://127.0.0.1:{port}"))
    };
    let backplane = RedisBackplane::start(options, tokio::runtime::Handle::current())?;
    let first = execute(
        &backplane,
        Request::Numbers {
            count: args.sessions + 1,
        },
    )
    .await?;
    let Reply::Numbers(first) = first else {
        bail!("Redis answered {first:?} when asked for numbers");
    };
    let sessions = (0..args.sessions).map(|number| session(number, first + number));
    let retained = (0..args.retained).map(|number| retained(number, args.payload));
    let mut requests = sessions.chain(retained).peekable();
    let mut under_way: std::collections::VecDeque<Replies> = Default::default();
    while requests.peek().is_some() || !under_way.is_empty() {
        if under_way.len() < UNDER_WAY && requests.peek().is_some() {
            let batch: anyhow::Result<Vec<Request>> = requests.by_ref().take(BATCH).collect();
            under_way.push_back(backplane.execute(batch?));
            continue;
        }
        let Some(replies) = under_way.pop_front() else {
            break;
        };
        for reply in replies.await {
            ensure!(
                matches!(reply, Ok(Reply::Done | Reply::Version(_))),
                "Redis refused what it is filled with: {reply:?}"
            );
        }
    }
    backplane.close().await;
    Ok(Full {
        client: args.sessions.checked_sub(1).map(client),
        topic: args.retained.checked_sub(1).map(topic),
    })
}

async fn execute(backplane: &RedisBackplane, request: Request) -> anyhow::Result<Reply> {
    let mut replies = backplane.execute(vec![request]).await;
    Ok(replies.pop().context("no answer")??)
}

fn session(number: u64, drawn: u64) -> anyhow::Result<Request> {
    let client_id: Arc<str> = client(number).into();
    let id = Bucket::of(&client_id).session(drawn);
    let mut entry = SessionEntry::new(id, Arc::clone(&client_id));
    entry.subscriptions.push(SubscriptionRecord {
        filter: format!("fleet/{client_id}/command").into(),
        options: 1,
        identifier: None,
    });
    Ok(Request::PutSession {
        session: id,
        client_id,
        expiry_interval: u32::MAX,
        epoch: Epoch(1),
        record: entry.encode(None)?.into(),
        head: head(Kind::Table, ReplicaId(0)),
    })
}

fn retained(number: u64, payload: usize) -> anyhow::Result<Request> {
    let topic: Arc<str> = topic(number).into();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    let message = Message::new(MessageParts {
        topic: &topic,
        properties: &[],
        payload: &vec![b'.'; payload],
        qos: QoS::AtLeastOnce,
        retain: true,
        expires_at: None,
        received_at: u64::try_from(now.as_micros())?,
        publisher: Some(client(number).into()),
        id: number,
    });
    let mut body = Vec::new();
    message.encode_into(&mut body)?;
    Ok(Request::PutRetained {
        topic,
        body: Bytes::from(body),
        head: head(Kind::Table, ReplicaId(0)),
    })
}

/// Resumes a session and subscribes to a retained message, at a replica that says it is ready.
fn prove(replica: &Started, full: &Full) -> anyhow::Result<()> {
    let name = &replica.name;
    let mut stream = TcpStream::connect(("127.0.0.1", replica.port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut properties = PropertiesBuf::new();
    properties.push(Property::SessionExpiryInterval(u32::MAX))?;
    let fallback = format!("start-{name}");
    let connect = Connect {
        clean_start: false,
        properties: properties.as_properties(),
        ..Connect::new(Version::V5, full.client.as_deref().unwrap_or(&fallback))
    };
    send(&mut stream, &Packet::Connect(connect))?;
    let answer = receive(&mut stream)?;
    let Packet::ConnAck(connack) = decode(&answer, Version::V5, Sender::Server)? else {
        bail!("{name} did not answer CONNECT with a CONNACK");
    };
    ensure!(
        connack.reason.0 == 0 && connack.session_present == full.client.is_some(),
        "{name} does not know the session of {:?}: {connack:?}",
        full.client
    );
    let Some(topic) = &full.topic else {
        return Ok(());
    };
    let mut filters = SubscribeFiltersBuf::new();
    filters.push(topic, SubscribeOptions::new(QoS::AtMostOnce))?;
    let subscribe = Subscribe {
        packet_id: PacketId::new(1).context("a packet id")?,
        properties: Default::default(),
        filters: filters.as_filters(),
    };
    send(&mut stream, &Packet::Subscribe(subscribe))?;
    loop {
        let answer = receive(&mut stream)?;
        match decode(&answer, Version::V5, Sender::Server)? {
            Packet::Publish(publish) if publish.topic == topic => return Ok(()),
            Packet::SubAck(_) => {}
            other => bail!("{name} sent {other:?} in place of a retained message"),
        }
    }
}

fn send(stream: &mut TcpStream, packet: &Packet<'_>) -> anyhow::Result<()> {
    let mut out = Vec::new();
    packet.encode(Version::V5, &mut out)?;
    Ok(stream.write_all(&out)?)
}

/// One whole packet.
fn receive(stream: &mut TcpStream) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    loop {
        let mut one = [0];
        stream.read_exact(&mut one)?;
        bytes.extend_from_slice(&one);
        if let Some(header) = peek_frame(&bytes, PACKET_MAX)? {
            let have = bytes.len();
            bytes.resize(header.total_len, 0);
            if let Some(rest) = bytes.get_mut(have..) {
                stream.read_exact(rest)?;
            }
            return Ok(bytes);
        }
    }
}

fn redis_memory(port: u16) -> anyhow::Result<u64> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"INFO memory\r\n")?;
    for line in BufReader::new(stream).lines() {
        if let Some(bytes) = line?.strip_prefix("used_memory:") {
            return Ok(bytes.trim().parse()?);
        }
    }
    bail!("Redis does not tell its memory")
}

fn rss_peak(pid: u32) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next());
    Ok(kilobytes.context("no VmHWM in /proc")?.parse::<u64>()? * 1024)
}

impl Report {
    fn to_text(&self) -> String {
        let mib = |bytes: u64| bytes as f64 / (1 << 20) as f64;
        let mut text = format!(
            "{}, {} processors, commit {}, {}\n\
             {} persistent sessions with a subscription each, {} retained messages of {} bytes\n\
             Redis: {:.0} MiB in use, {:.0} MiB resident; filled in {:.1} s\n",
            self.machine.processor,
            self.machine.processors,
            self.machine.commit,
            self.machine.date,
            self.sessions,
            self.retained,
            self.payload_bytes,
            mib(self.redis_memory),
            mib(self.redis_rss),
            self.fill_s
        );
        for replica in &self.replicas {
            text += &format!(
                "{}: ready after {:.2} s ({:.2} s CPU, Redis {:.2} s), {:.0} MiB resident, {:.0} MiB at most; {:.0} % of the machine was used by others\n",
                replica.name,
                replica.ready_s,
                replica.cpu_s,
                replica.redis_cpu_s,
                mib(replica.rss),
                mib(replica.rss_peak),
                replica.others * 100.0
            );
        }
        text
    }
}

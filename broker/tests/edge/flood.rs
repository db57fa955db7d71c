//! Attackers beside honest clients: wrong passwords, handshakes, slow and wrong packets, subscriptions without end.
//!
//! The short form runs with every other test; `make flood` has 1,000 of each beside each other. What is held: no honest client is disconnected or loses
//! a message, all who come anew are let in, and the broker's memory keeps within what its bounds allow. Latencies are said and
//! not held: attackers, honest clients and broker share the machine's processors.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use dunlin_broker::auth::{password, users};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::{sleep, timeout},
};
use tokio_rustls::TlsConnector;

use crate::audit::connect;
use crate::certificates::Authority;
use crate::process::{Running, broker};

/// For everything that must come.
const LIMIT: Duration = Duration::from_secs(60);
/// What the broker may need during the attack beyond what it had before: four password checks of 19 MiB, handshakes with
/// TLS of 40 KiB and a CONNECT of 256 KiB for each that is under way, subscriptions, queues.
const MEMORY: u64 = 320 << 20;

/// How a refusal as busy ends in words.
const BUSY: &str = "refused with (32, [0, 3])";

#[derive(Clone, Copy)]
struct Scale {
    honest: usize,
    attackers: usize,
    /// Attempts of an attacker per second.
    rate: u32,
    calm: Duration,
    attack: Duration,
}

impl Scale {
    /// Of the environment, or small.
    fn given() -> Self {
        let number = |name: &str, default| {
            let given = std::env::var(name).ok();
            given.map_or(default, |text| text.parse().unwrap())
        };
        let seconds = |name, default| Duration::from_secs(number(name, default));
        Self {
            honest: usize::try_from(number("FLOOD_HONEST", 30)).unwrap(),
            attackers: usize::try_from(number("FLOOD_ATTACKERS", 60)).unwrap(),
            rate: u32::try_from(number("FLOOD_RATE", 2)).unwrap(),
            calm: seconds("FLOOD_CALM", 2),
            attack: seconds("FLOOD_SECONDS", 4),
        }
    }
}

/// Addresses of this machine: honest clients and attackers have one each.
fn address(kind: u8, number: usize) -> IpAddr {
    let [.., high, low] = u32::try_from(number).unwrap().to_be_bytes();
    Ipv4Addr::new(127, kind, high, low.max(1)).into()
}

async fn open(from: IpAddr, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    // The port is chosen when it is known where to, so that no address runs out of them.
    socket.set_reuseaddr(true)?;
    socket.bind((from, 0).into())?;
    socket.connect(to).await
}

/// A packet whose body is at most 16 KiB.
fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    let mut left = body.len();
    loop {
        let byte = u8::try_from(left % 128).unwrap();
        left /= 128;
        out.push(byte | u8::from(left > 0) << 7);
        if left == 0 {
            break;
        }
    }
    out.extend_from_slice(body);
    out
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&u16::try_from(text.len()).unwrap().to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn subscribe(id: u16, filters: impl Iterator<Item = String>) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    for filter in filters {
        text(&mut body, &filter);
        body.push(1);
    }
    packet(0x82, &body)
}

/// First byte and body of the next packet.
async fn next(stream: &mut (impl AsyncReadExt + Unpin)) -> std::io::Result<(u8, Vec<u8>)> {
    let first = stream.read_u8().await?;
    let (mut len, mut shift) = (0, 0);
    loop {
        let byte = stream.read_u8().await?;
        len |= usize::from(byte & 0x7F) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            break;
        }
    }
    let mut body = vec![0; len];
    stream.read_exact(&mut body).await?;
    Ok((first, body))
}

/// What the honest clients have seen.
#[derive(Default)]
struct Seen {
    stop: AtomicBool,
    /// Clients that are connected and subscribed.
    arrived: AtomicU64,
    latencies: Mutex<Vec<Duration>>,
    sent: AtomicU64,
    acknowledged: AtomicU64,
    delivered: AtomicU64,
}

impl Seen {
    /// The latency that 99 of 100 keep within, and the longest, since it was asked last.
    fn latencies(&self) -> (Duration, Duration) {
        let mut all = std::mem::take(&mut *self.latencies.lock().unwrap());
        all.sort_unstable();
        let at = all.len() * 99 / 100;
        (all[at.min(all.len() - 1)], all[all.len() - 1])
    }
}

/// Publishes once a second to itself, until it is told to stop; then waits until all of it is there.
async fn honest(number: usize, to: SocketAddr, seen: Arc<Seen>) -> Result<(), String> {
    let id = format!("honest-{number}");
    let failed = |what: &str, error: &dyn std::fmt::Display| format!("{id}: {what}: {error}");
    // One after the other, and again while the broker is busy: passwords are checked a few at a time. There is no attack yet; who
    // comes during it is let in at the first attempt.
    sleep(Duration::from_millis(50) * u32::try_from(number).unwrap()).await;
    let mut stream = loop {
        match log_in(address(1, number), to, &id).await {
            Err(busy) if busy.ends_with(BUSY) => sleep(Duration::from_secs(2)).await,
            other => break other?,
        }
    };
    let filter = format!("honest/{id}");
    let ask = subscribe(1, std::iter::once(filter.clone()));
    stream
        .write_all(&ask)
        .await
        .map_err(|e| failed("write", &e))?;
    let (kind, body) = next(&mut stream).await.map_err(|e| failed("suback", &e))?;
    assert_eq!((kind, &body[..]), (0x90, &[0, 1, 1][..]), "{id}");
    seen.arrived.fetch_add(1, Ordering::Relaxed);
    let (mut read, mut write) = stream.into_split();
    let began = Instant::now();
    let (mut sent, mut acknowledged, mut delivered) = (0_u64, 0_u64, 0_u64);
    let mut due = sleep_of(Duration::from_micros(number as u64 * 997 % 1_000_000));
    // A packet is read whole before anything else is waited for.
    let (packets, mut came) = tokio::sync::mpsc::channel(64);
    let reading = tokio::spawn(async move {
        loop {
            let result = next(&mut read).await;
            let ended = result.is_err();
            if packets.send(result).await.is_err() || ended {
                break;
            }
        }
    });
    loop {
        let stopping = seen.stop.load(Ordering::Relaxed);
        if stopping && acknowledged == sent && delivered == sent {
            break;
        }
        tokio::select! {
            () = &mut due => {
                due = sleep_of(Duration::from_millis(if stopping { 50 } else { 1_000 }));
                if !stopping {
                    sent += 1;
                    seen.sent.fetch_add(1, Ordering::Relaxed);
                    let mut body = Vec::new();
                    text(&mut body, &filter);
                    body.extend_from_slice(&(u16::try_from(sent % 60_000).unwrap() + 2).to_be_bytes());
                    body.extend_from_slice(&began.elapsed().as_micros().to_be_bytes());
                    let publish = packet(0x32, &body);
                    write.write_all(&publish).await.map_err(|e| failed("publish", &e))?;
                }
            }
            packet = came.recv() => {
                let (kind, body) = packet.ok_or_else(|| failed("read", &"ended"))?.map_err(|e| failed("read", &e))?;
                match kind >> 4 {
                    4 => {
                        acknowledged += 1;
                        seen.acknowledged.fetch_add(1, Ordering::Relaxed);
                    }
                    3 => {
                        delivered += 1;
                        seen.delivered.fetch_add(1, Ordering::Relaxed);
                        let at = 2 + filter.len();
                        let (id, payload) = body[at..].split_at(2);
                        let then = u128::from_be_bytes(payload.try_into().unwrap());
                        let took = began.elapsed().as_micros() - then;
                        let took = Duration::from_micros(u64::try_from(took).unwrap());
                        seen.latencies.lock().unwrap().push(took);
                        write.write_all(&packet_of_ack(id)).await.map_err(|e| failed("ack", &e))?;
                    }
                    other => return Err(format!("honest-{number}: a packet of type {other}")),
                }
            }
        }
    }
    reading.abort();
    Ok(())
}

fn packet_of_ack(id: &[u8]) -> [u8; 4] {
    [0x40, 2, id[0], id[1]]
}

fn sleep_of(time: Duration) -> std::pin::Pin<Box<tokio::time::Sleep>> {
    Box::pin(sleep(time))
}

async fn log_in(from: IpAddr, to: SocketAddr, id: &str) -> Result<TcpStream, String> {
    let failed = |error: std::io::Error| format!("{id}: connect: {error}");
    let mut stream = open(from, to).await.map_err(failed)?;
    let hello = connect(id, "ann", "right");
    stream.write_all(&hello).await.map_err(failed)?;
    let (kind, body) = next(&mut stream).await.map_err(failed)?;
    match (kind, &body[..]) {
        (0x20, [0, 0]) => Ok(stream),
        other => Err(format!("{id}: refused with {other:?}")),
    }
}

/// What an attacker does, by its number.
async fn attack(
    number: usize,
    to: SocketAddr,
    tls: SocketAddr,
    connector: TlsConnector,
    turn: u64,
) {
    let from = address(2, number);
    // Whatever becomes of it: that is the broker's matter, and held on the side of the honest.
    let attempt = async {
        match number % 6 {
            0 => {
                // Half of them want the honest clients' account, half any.
                let name = match number % 12 {
                    0 => "ann".to_owned(),
                    _ => format!("guess-{turn}"),
                };
                let mut stream = open(from, to).await?;
                stream.write_all(&connect("evil", &name, "wrong")).await?;
                let _answer = next(&mut stream).await?;
            }
            1 => {
                let stream = open(from, tls).await?;
                let name = "localhost".try_into().unwrap();
                let _stream = connector.connect(name, stream).await?;
            }
            2 => {
                let mut stream = open(from, to).await?;
                for byte in connect("slow", "ann", "wrong") {
                    stream.write_all(&[byte]).await?;
                    sleep(Duration::from_secs(2)).await;
                }
            }
            3 => {
                let mut stream = open(from, to).await?;
                stream.write_all(&[0x10, 0xFF, 0xFF, 0xFF, 0x7F]).await?;
                let junk = vec![0xA5; 64 * 1024];
                while stream.write_all(&junk).await.is_ok() {}
            }
            4 => {
                let mut stream = open(from, to).await?;
                let junk: Vec<u8> = (0..200_u64)
                    .map(|n| (n.wrapping_mul(turn | 1) >> 3).to_le_bytes()[0])
                    .collect();
                stream.write_all(&junk).await?;
                let _end = next(&mut stream).await?;
            }
            _ => {
                let mut stream = open(from, to).await?;
                let hello = connect(&format!("bomb-{number}"), "mallory", "right");
                stream.write_all(&hello).await?;
                let (_, body) = next(&mut stream).await?;
                if body != [0, 0] {
                    return Ok(());
                }
                for round in 0..100_u16 {
                    let filters = (0..100).map(|n| match n {
                        0 => "#".to_owned(),
                        n => format!("{}m/{round}/{n}/#", "+/".repeat(n % 20)),
                    });
                    stream.write_all(&subscribe(round + 1, filters)).await?;
                    let _suback = next(&mut stream).await?;
                    sleep(Duration::from_millis(200)).await;
                }
            }
        }
        Ok::<_, std::io::Error>(())
    };
    let _ended = timeout(Duration::from_secs(30), attempt).await;
}

/// Resident memory of a process, in bytes.
fn memory(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.unwrap().trim().trim_end_matches(" kB");
    kib.parse::<u64>().unwrap() * 1024
}

fn start(folder: &Path, authority: &Authority) -> (Running, SocketAddr, SocketAddr) {
    let path = folder.join("users");
    for name in ["ann", "mallory"] {
        users::put(&path, name, &password::hash(b"right").unwrap()).unwrap();
    }
    let config = folder.join("dunlin.toml");
    let text = format!(
        "[auth]\nusers = {:?}\n\
         [[auth.rules]]\neffect = \"allow\"\nusers = [\"ann\"]\ntopics = [\"honest/%c\"]\n\
         [[auth.rules]]\neffect = \"allow\"\nusers = [\"mallory\"]\ntopics = [\"+/#\"]\naction = \"subscribe\"\n\
         [limits]\nhandshakes_per_address = 20\nconnections_per_address = 50\n\
         [[listener]]\nname = \"plain\"\ntype = \"tcp\"\naddress = \"127.0.0.1:0\"\n\
         [[listener]]\nname = \"tls\"\ntype = \"tls\"\naddress = \"127.0.0.1:0\"\n\
         [listener.tls]\ncertificate = {:?}\nkey = {:?}\n",
        path,
        authority.path("server.pem"),
        authority.path("server.key"),
    );
    // Nobody gets what is the honest clients'.
    let text = text.replace(
        "topics = [\"+/#\"]",
        "topics = [\"m/#\", \"+/m/#\", \"+/+/m/#\", \"+/+/+/+/+/#\"]",
    );
    std::fs::write(&config, text).unwrap();
    let mut command = match std::env::var_os("FLOOD_BROKER") {
        Some(path) => Command::new(path),
        None => broker(),
    };
    command.arg("--config").arg(&config);
    let running = Running::start_as_is(command, &["--no-ops"]);
    let log = running.log();
    let listening = |name: &str| {
        let named = format!("\"listener\":\"{name}\"");
        let line = log.lines().find(|line| line.contains(&named)).unwrap();
        let address = line.split("\"address\":\"").nth(1).unwrap();
        address.split('"').next().unwrap().parse().unwrap()
    };
    let addresses = (listening("plain"), listening("tls"));
    (running, addresses.0, addresses.1)
}

/// As many files as the system gives.
fn take_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
}

#[test]
fn attackers_of_every_kind_cost_honest_clients_neither_messages_nor_connections() {
    take_files();
    let scale = Scale::given();
    let authority = Authority::new();
    authority.sign("server", |_| {});
    let connector = TlsConnector::from(authority.client(None));
    let folder = tempfile::tempdir().unwrap();
    let (running, plain, tls) = start(folder.path(), &authority);
    let process = running.id();
    // The honest have a thread of their own, so that what attackers cost their own side is not counted as latency.
    let attackers = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let calm = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let seen = Arc::new(Seen::default());
    let attempts = Arc::new(AtomicU64::new(0));
    calm.block_on(async {
        let mut clients = tokio::task::JoinSet::new();
        for number in 0..scale.honest {
            clients.spawn(honest(number, plain, Arc::clone(&seen)));
        }
        // Password checks take their time.
        let all = scale.honest as u64;
        timeout(LIMIT * 3, async {
            while seen.arrived.load(Ordering::Relaxed) < all {
                if let Some(Ok(Err(error))) = clients.try_join_next() {
                    panic!("{error}");
                }
                sleep(Duration::from_millis(50)).await;
            }
        })
        .await
        .expect("all honest clients are connected");
        let _settling = seen.latencies();
        sleep(scale.calm).await;
        let before = seen.latencies();
        let idle = memory(process);

        let mut enemies = tokio::task::JoinSet::new();
        for number in 0..scale.attackers {
            let (connector, attempts) = (connector.clone(), Arc::clone(&attempts));
            let pause = Duration::from_secs(1) / scale.rate.max(1);
            enemies.spawn_on(
                async move {
                    sleep(pause * u32::try_from(number % 97).unwrap() / 97).await;
                    for turn in 0.. {
                        attempts.fetch_add(1, Ordering::Relaxed);
                        attack(number, plain, tls, connector.clone(), turn).await;
                        sleep(pause).await;
                    }
                },
                attackers.handle(),
            );
        }
        let began = Instant::now();
        let (mut most, mut came, mut slowest) = (idle, 0, Duration::ZERO);
        while began.elapsed() < scale.attack {
            // Somebody who has been here before comes again.
            let comer = came % scale.honest;
            let asked = Instant::now();
            let id = format!("again-{came}");
            let again = log_in(address(1, comer), plain, &id);
            let again = timeout(LIMIT, again).await.expect("an answer comes in time");
            let _stream = again.unwrap();
            slowest = slowest.max(asked.elapsed());
            came += 1;
            most = most.max(memory(process));
            sleep(Duration::from_millis(250)).await;
        }
        let during = seen.latencies();
        seen.stop.store(true, Ordering::Relaxed);
        // The attack goes on while the last messages are waited for.
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let all_there = timeout(LIMIT, async {
            while let Some(client) = clients.join_next().await {
                client.unwrap().unwrap();
            }
        });
        assert!(
            all_there.await.is_ok(),
            "of {} publishes {} are acknowledged and {} delivered; {} clients wait",
            count(&seen.sent),
            count(&seen.acknowledged),
            count(&seen.delivered),
            clients.len(),
        );
        most = most.max(memory(process));
        enemies.abort_all();

        let ratio = during.0.as_secs_f64() / before.0.as_secs_f64();
        println!(
            "flood: {} honest, {} attackers, {} attempts in {:?}; {} publishes, all acknowledged and delivered; \
             p99 {:?} before, {:?} during ({ratio:.1} times), longest {:?}; {came} came again, the slowest in {slowest:?}; \
             memory {} MiB before, {} MiB at most",
            scale.honest,
            scale.attackers,
            count(&attempts),
            scale.attack,
            count(&seen.sent),
            before.0,
            during.0,
            during.1,
            idle >> 20,
            most >> 20,
        );
        assert_eq!(count(&seen.acknowledged), count(&seen.sent));
        assert_eq!(count(&seen.delivered), count(&seen.sent));
        assert!(count(&attempts) >= scale.attackers as u64);
        assert!(
            most < idle + MEMORY,
            "{} MiB, and {} MiB before the attack",
            most >> 20,
            idle >> 20
        );
    });
    attackers.shutdown_timeout(Duration::from_secs(5));
}

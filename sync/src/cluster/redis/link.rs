//! The connection to one master, kept up for ever.
//!
//! A connection is given up when its socket fails, when nothing comes over it for a while although an
//! answer is due (a black-holed link looks alive to the kernel for minutes), when the server says that
//! it is no master any more, or when a Sentinel names another one. What has no answer goes out again on
//! the next one, in order; before that, the old connection is closed at the server, too, so that nothing
//! that it still holds is executed late.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncReadExt;
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{debug, error, info, warn};

use super::connect::{ConnectError, READ_BYTES, Server, Wire};
use super::encode::Shape;
use super::job::Job;
use super::judge::{Verdict, judge};
use super::node::{Handback, Node};
use super::pool::Core;
use super::resp::{Value, Writer};
use super::ring::{Kept, Ring};
use super::scripts;
use super::serving::{Serving, Step, push};
use super::traffic::{Event, Traffic};
use crate::cluster::Reply;

/// How long after a failover others may still be writing again what it has lost.
const REPAIR: Duration = Duration::from_secs(90);
/// Kept writes that are sent before their answers are read.
const REPLAY_CHUNK: usize = 64;
/// The same in bytes.
const REPLAY_BYTES: usize = 256 * 1024;
/// The watchdog looks so often in an answer's time.
const LOOKS: u32 = 6;
/// How many times the usual an answer is waited for at most.
const PATIENCE_MAX: u32 = 16;
/// How often Redis is asked how much memory is in use.
const MEMORY_INTERVAL: Duration = Duration::from_secs(5);

/// Why a connection was given up.
#[derive(Debug)]
pub(super) enum End {
    Failed(ConnectError),
    /// Nothing came for so long.
    Silent(Duration),
    Elsewhere(String),
    /// Another address, or writes to be adopted.
    Anew,
    Closed,
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Failed(error) => write!(f, "{error}"),
            Self::Silent(time) => write!(f, "nothing came for {} ms", time.as_millis()),
            Self::Elsewhere(said) => write!(f, "it is not a master to write to: {said}"),
            Self::Anew => f.write_str("connecting anew"),
            Self::Closed => f.write_str("closed"),
        }
    }
}

/// The task of one master.
pub(super) async fn run(core: Arc<Core>, node: Arc<Node>) {
    let options = &core.options;
    let traffic = Traffic::new(
        Ring::new(options.ring_bytes, options.ring_age),
        options.wait_replicas,
    );
    let mut link = Link {
        core: Arc::clone(&core),
        node: Arc::clone(&node),
        traffic,
        server: None,
        emptied: core.emptied.load(Ordering::Acquire),
        client: None,
        replay: Vec::new(),
        connections: 0,
        patience: 1,
        abandoned: 0,
        gate: 0,
    };
    let mut closed = core.closed.subscribe();
    tokio::select! {
        () = link.keep_up() => {}
        _ = closed.wait_for(|closed| *closed) => {}
    }
    node.connected.store(false, Ordering::Release);
    link.traffic.handle_jobs(node.take_all());
    link.traffic.close();
}

struct Link {
    core: Arc<Core>,
    node: Arc<Node>,
    traffic: Traffic,
    /// At the other end of the last connection.
    server: Option<[u8; 8]>,
    /// So often it was emptied, and what it had lost is written again.
    emptied: u64,
    /// The last connection's number at the server.
    client: Option<i64>,
    /// Acknowledged writes that the server may lack.
    replay: Vec<Kept>,
    connections: u64,
    /// How many times as long as usual an answer may take: a command that takes Redis longer than that
    /// would otherwise be given up and sent again for ever.
    patience: u32,
    /// Jobs up to this one were given up.
    abandoned: u64,
    /// Appends wait until so many failovers are made good.
    gate: u64,
}

impl Link {
    /// Until the master is none any more.
    async fn keep_up(&mut self) {
        let mut pauses = self.core.pauses();
        let mut abandoned = self.node.abandoned.subscribe();
        loop {
            let established = tokio::select! {
                established = self.establish() => established.map_err(End::Failed),
                // What was given up is to be told so now, not when Redis is there again.
                _ = abandoned.changed() => Err(End::Anew),
            };
            let end = match established {
                Ok(wire) => {
                    pauses = self.core.pauses();
                    self.serve(wire).await
                }
                Err(end) => end,
            };
            abandoned.mark_unchanged();
            self.lost(&end);
            if self.is_over() {
                return;
            }
            match end {
                End::Anew => {}
                _ => {
                    let pause = pauses.next().unwrap_or(self.core.options.backoff_max);
                    self.rest(pause).await;
                }
            }
            if self.is_over() {
                return;
            }
        }
    }

    fn is_over(&mut self) -> bool {
        self.abandon();
        let work = self.node.take_work();
        self.traffic.ring.restore(work.kept);
        self.traffic.handle_jobs(work.jobs);
        if work.draining {
            self.give_back();
        }
        work.retired
    }

    /// Gives up what the backplane was told to; `true`: the connection, too.
    fn abandon(&mut self) -> bool {
        let last = *self.node.abandoned.borrow();
        if last <= self.abandoned {
            return false;
        }
        self.abandoned = last;
        self.traffic.abandon(last)
    }

    fn count(&self) {
        let pending = self.traffic.pending() as u64;
        self.node.taken.store(pending, Ordering::Relaxed);
    }

    fn give_back(&mut self) {
        let (traffic, replay) = (&mut self.traffic, &mut self.replay);
        self.node.give_back(|| {
            let mut kept = std::mem::take(replay);
            kept.extend(traffic.ring.take());
            Handback {
                jobs: traffic.take_jobs(),
                kept,
            }
        });
    }

    /// A pause between two attempts; jobs can be taken back meanwhile.
    async fn rest(&mut self, pause: Duration) {
        let until = Instant::now() + pause;
        while tokio::time::timeout_at(until, self.node.wake.notified())
            .await
            .is_ok()
        {
            if self.is_over() || self.node.moved.swap(false, Ordering::AcqRel) {
                return;
            }
        }
    }

    fn lost(&mut self, end: &End) {
        let was_connected = self.node.connected.swap(false, Ordering::AcqRel);
        self.traffic.handle_lost();
        self.count();
        let operators = matches!(end, End::Failed(error) if error.is_operators());
        match (was_connected, operators) {
            _ if matches!(end, End::Anew | End::Closed) => debug!("redis connection ends: {end}"),
            (_, true) => error!("no connection to redis: {end}"),
            (true, false) => warn!("connection to redis lost: {end}"),
            (false, false) => warn!("no connection to redis: {end}"),
        }
        if !matches!(end, End::Anew | End::Closed) {
            self.core.failed(end.to_string());
        }
        self.core.topology.notify_one();
    }

    /// Connects, and puts right what a failover may have lost.
    async fn establish(&mut self) -> Result<Wire, ConnectError> {
        self.node.moved.store(false, Ordering::Release);
        let address = match &self.node.address {
            Some(address) => address.clone(),
            None => self.core.master().await?,
        };
        let mut wire = self.core.access.connect(&address).await?;
        let timeout = self.core.options.connect_timeout;
        let late = || ConnectError::Timeout(address.to_string());
        let server = tokio::time::timeout(timeout, self.greet(&mut wire))
            .await
            .map_err(|_| late())??;
        let emptied = self.core.emptied.load(Ordering::Acquire);
        let is_another =
            self.server.is_some_and(|known| known != server.name) || emptied > self.emptied;
        if is_another {
            self.replay.extend(self.traffic.ring.take());
        }
        self.replay.extend(self.node.take_adopted());
        let repairs = is_another || !self.replay.is_empty();
        // From here on the ring is this server's: a further failure replays it all.
        self.replay(&mut wire, server.name).await?;
        self.server = Some(server.name);
        self.emptied = emptied;
        let until = repairs.then(|| Instant::now() + REPAIR);
        self.traffic.handle_connected(server.name, until);
        self.connections += 1;
        if self.connections > 1 {
            self.node.reconnects.fetch_add(1, Ordering::Relaxed);
        }
        *self.node.at.lock() = Some(address.to_string());
        self.node.connected.store(true, Ordering::Release);
        info!(%address, failover = repairs, "connected to redis");
        if repairs {
            self.core.failovers.send_modify(|count| *count += 1);
            self.gate = *self.core.failovers.borrow();
        }
        Ok(wire)
    }

    /// Who is there; closes the connection before this one; brings the scripts.
    async fn greet(&mut self, wire: &mut Wire) -> Result<Server, ConnectError> {
        let server = Server::of(wire).await?;
        if let (Some(old), true) = (self.client, self.server == Some(server.name)) {
            let old = old.to_string();
            // It may be gone already: any answer will do.
            wire.send(&[b"CLIENT", b"KILL", b"ID", old.as_bytes()])
                .await?;
            wire.receive().await?;
        }
        if let Value::Int(client) = wire.ask(&[b"CLIENT", b"ID"]).await? {
            self.client = Some(client);
        }
        load_scripts(wire).await?;
        Ok(server)
    }

    /// Writes again what had been acknowledged, in order.
    async fn replay(&mut self, wire: &mut Wire, server: [u8; 8]) -> Result<(), ConnectError> {
        if self.replay.is_empty() {
            return Ok(());
        }
        let count = self.replay.len();
        let timeout = self.core.options.answer_timeout;
        let mut at = 0;
        while at < self.replay.len() {
            let late = ConnectError::Timeout(wire.address.clone());
            at += tokio::time::timeout(timeout, self.replay_some(wire, server, at))
                .await
                .map_err(|_| late)??;
        }
        let kept = std::mem::take(&mut self.replay);
        self.traffic.ring.restore(kept);
        warn!(
            writes = count,
            "redis is another server now: acknowledged writes were sent again"
        );
        Ok(())
    }

    async fn replay_some(
        &mut self,
        wire: &mut Wire,
        server: [u8; 8],
        at: usize,
    ) -> Result<usize, ConnectError> {
        let mut out = Vec::new();
        let mut count = 0;
        for kept in self.replay.iter().skip(at).take(REPLAY_CHUNK) {
            kept.command.write_again(&mut out, server, &kept.memo);
            count += 1;
            if out.len() > REPLAY_BYTES {
                break;
            }
        }
        wire.write_all(&out).await?;
        for kept in self.replay.iter_mut().skip(at).take(count) {
            let mut error = None;
            for _ in 0..kept.command.answers {
                match wire.receive().await? {
                    Value::Error(said) => error = error.or(Some(said)),
                    Value::Int(version) if version > 0 && is_version(kept.command.shape) => {
                        kept.memo = Bytes::from(version.to_string());
                    }
                    _ => {}
                }
            }
            let Some(said) = error else { continue };
            match judge(&Value::Error(said.clone())) {
                Verdict::Refused => error!(
                    kind = kept.command.kind,
                    said, "redis refuses what it had acknowledged before a failover"
                ),
                // Slots that are another server's come to it by themselves.
                Verdict::Moved { .. } => {}
                _ => {
                    return Err(ConnectError::Said {
                        address: wire.address.clone(),
                        error: said,
                        advice: "it is tried again",
                    });
                }
            }
        }
        Ok(count)
    }

    /// Carries traffic until the connection is to be given up.
    async fn serve(&mut self, wire: Wire) -> End {
        let answer_timeout = self.core.options.answer_timeout;
        let mut tick = tokio::time::interval(answer_timeout / LOOKS);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut state = Serving {
            wire,
            out: Vec::new(),
            written: 0,
            unflushed: false,
            heard: Instant::now(),
            since: Instant::now(),
            pinged: None,
            asked_memory: None,
        };
        loop {
            if let Some(end) = self.look_for_work() {
                return end;
            }
            let gated = self.core.gated.load(Ordering::Acquire)
                && self.core.made_good.load(Ordering::Acquire) < self.gate;
            self.traffic.set_gate(gated);
            state.fill(&mut self.traffic);
            self.count();
            let until = self.traffic.poll_timeout();
            let wake = async {
                match until {
                    Some(until) => tokio::time::sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            let Serving {
                wire,
                out,
                written,
                unflushed,
                ..
            } = &mut state;
            wire.buffer.reserve(READ_BYTES);
            let rest = out.get(*written..).unwrap_or_default();
            let result = tokio::select! {
                read = wire.read.read_buf(&mut wire.buffer) => Step::Read(read),
                step = push(&mut wire.write, rest), if *unflushed || !rest.is_empty() => step,
                () = self.node.wake.notified() => Step::Woken,
                _ = tick.tick() => Step::Tick,
                () = wake => Step::Woken,
            };
            let result = match result {
                Step::Read(read) => self.read(&mut state, read),
                Step::Wrote(wrote) => state.wrote(wrote),
                Step::Flushed(flushed) => state.flushed(flushed),
                Step::Tick => self.tick(&mut state),
                Step::Woken => Ok(()),
            };
            if let Err(end) = result {
                return end;
            }
        }
    }

    fn look_for_work(&mut self) -> Option<End> {
        if self.abandon() {
            return Some(End::Anew);
        }
        let work = self.node.take_work();
        if !work.kept.is_empty() {
            self.traffic.ring.restore(work.kept);
        }
        self.traffic.handle_jobs(work.jobs);
        if work.draining && self.traffic.is_quiet() {
            self.give_back();
        }
        if work.retired {
            return Some(End::Closed);
        }
        let anew = self.node.moved.load(Ordering::Acquire) || (work.adopts && !work.draining);
        anew.then_some(End::Anew)
    }

    fn read(&mut self, state: &mut Serving, read: std::io::Result<usize>) -> Result<(), End> {
        let wire = &mut state.wire;
        match read {
            Ok(0) => {
                let gone = std::io::ErrorKind::UnexpectedEof.into();
                return Err(End::Failed(wire.io(gone)));
            }
            Ok(_) => {}
            Err(error) => return Err(End::Failed(wire.io(error))),
        }
        let now = Instant::now();
        state.heard = now;
        loop {
            let next = wire.decoder.next(&mut wire.buffer);
            let Some(answer) = next.map_err(|error| End::Failed(wire.protocol(error)))? else {
                break;
            };
            if !matches!(answer, Value::Push(_)) && !self.traffic.handle_answer(now, answer) {
                return Err(End::Elsewhere(
                    "an answer that was not asked for".to_owned(),
                ));
            }
        }
        self.go_onward();
        self.events(state)
    }

    /// Second steps.
    fn go_onward(&mut self) {
        for (whose, reply) in self.traffic.onward.drain(..) {
            if let Reply::Joined { replica } = reply {
                let mut job = Job::new(self.core.encoder().open(replica), whose);
                job.first = Some(reply);
                self.core.route(vec![job]);
            }
        }
    }

    fn events(&mut self, state: &mut Serving) -> Result<(), End> {
        let full = self.traffic.is_full();
        if self.node.full.swap(full, Ordering::AcqRel) != full {
            match full {
                true => error!(
                    "redis is full: what needs memory waits; give it more (maxmemory), or let clients drain their queues"
                ),
                false => info!("redis takes writes again"),
            }
        }
        for event in self.traffic.events.drain(..) {
            match event {
                Event::Elsewhere(said) => return Err(End::Elsewhere(said)),
                Event::Moved => self.core.topology.notify_one(),
                Event::Forbidden(said) => {
                    error!(
                        "redis forbids the broker's account what it needs: {said}; see docs/redis.md"
                    );
                    self.core.failed(said);
                }
                Event::Refuses(said) => {
                    debug!("redis refuses for now: {said}");
                    self.core.failed(said);
                }
                Event::Pong => {
                    if let Some(at) = state.pinged.take() {
                        let took = state.heard.duration_since(at).as_micros();
                        let took = u64::try_from(took).unwrap_or(u64::MAX);
                        self.node.ping_us.store(took, Ordering::Relaxed);
                    }
                }
                Event::Memory { used, limit } => {
                    let [of_used, of_limit] = &self.node.memory;
                    of_used.store(used, Ordering::Relaxed);
                    of_limit.store(limit, Ordering::Relaxed);
                }
                Event::Unreplicated(count) => {
                    self.core.failed(format!(
                        "only {count} replicas of redis have the newest writes"
                    ));
                }
            }
        }
        Ok(())
    }

    /// The watchdog.
    fn tick(&mut self, state: &mut Serving) -> Result<(), End> {
        let now = Instant::now();
        let limit = self.core.options.answer_timeout * self.patience;
        self.traffic.ring.trim(now);
        if self.traffic.is_quiet() {
            state.heard = now;
        }
        let silent = now.duration_since(state.heard);
        if silent > limit {
            self.patience = (self.patience * 2).min(PATIENCE_MAX);
            return Err(End::Silent(silent));
        }
        if now.duration_since(state.since) > limit * 4 {
            self.patience = 1;
        }
        if state.pinged.is_none() {
            state.pinged = Some(now);
            self.traffic.ping(&mut state.out);
        }
        let due = |asked: Instant| now.duration_since(asked) >= MEMORY_INTERVAL;
        if state.asked_memory.is_none_or(due) {
            state.asked_memory = Some(now);
            self.traffic.ask_for_memory(&mut state.out);
        }
        Ok(())
    }
}

async fn load_scripts(wire: &mut Wire) -> Result<(), ConnectError> {
    let mut writer = Writer::default();
    for text in scripts::texts() {
        writer.command(&[b"SCRIPT", b"LOAD", text.as_bytes()]);
    }
    wire.write_all(&writer.bytes).await?;
    for _ in scripts::texts() {
        wire.receive_good().await?;
    }
    Ok(())
}

fn is_version(shape: Shape) -> bool {
    matches!(shape, Shape::Version | Shape::VersionOrFenced)
}

//! Bound sockets and their accept loops.
//!
//! An accept loop does nothing that can wait for a client. Errors of accept never end it: they are
//! counted, and where the system is out of files the loop waits a moment so as not to spin.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::{net::TcpListener, task::JoinSet};

use super::{Serve, Slot, acceptor::Acceptor, slots::Slots};
use crate::{error::Code, ops::Metrics, shutdown::Shutdown, workers::Workers};

/// Connections that the kernel holds for us before they are accepted.
const BACKLOG: i32 = 4_096;
/// Pause after an error of accept.
const ERROR_PAUSE: Duration = Duration::from_millis(100);
/// The log says at most this often that accepting fails.
const ERROR_LOG: Duration = Duration::from_secs(10);

/// An address that cannot be bound.
#[derive(Debug, thiserror::Error)]
#[error("{code} cannot listen on {address} (listener {name:?}): {advice}")]
pub struct BindError {
    /// The page in the error catalogue.
    pub code: Code,
    /// The listener's name.
    pub name: String,
    /// What was to be bound.
    pub address: SocketAddr,
    /// What is wrong and what to do.
    pub advice: String,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

/// Binds an address. Not shared with another process: a port in use must be noticed.
///
/// # Errors
/// When the system does not give it; the error says what to do.
pub fn bind(name: &str, address: SocketAddr) -> Result<std::net::TcpListener, BindError> {
    let bound = (|| {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
        // Lets a restarted broker have its port back while old connections fade in the kernel.
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(std::net::TcpListener::from(socket))
    })();
    bound.map_err(|source: io::Error| {
        let port = address.port();
        let (code, advice) = match source.kind() {
            io::ErrorKind::AddrInUse => (
                Code::AddressInUse,
                format!("the port is in use by another process: stop that one (`ss -ltnp 'sport = :{port}'` shows it), or choose another port"),
            ),
            io::ErrorKind::PermissionDenied => (
                Code::AddressDenied,
                "this user may not bind the port: choose one from 1024 up, or give the capability CAP_NET_BIND_SERVICE".to_owned(),
            ),
            io::ErrorKind::AddrNotAvailable => (
                Code::AddressUnknown,
                "the address does not belong to this machine: use one that `ip address` shows, or 0.0.0.0 for all".to_owned(),
            ),
            _ => (Code::AddressOther, source.to_string()),
        };
        BindError { code, name: name.to_owned(), address, advice, source }
    })
}

/// A bound listener that does not accept yet.
#[derive(Debug)]
pub struct Bound {
    /// The socket.
    pub socket: std::net::TcpListener,
    /// What becomes of its connections.
    pub acceptor: Arc<Acceptor>,
    /// The bounds its connections take a place in: the broker's, and its own.
    pub slots: Box<[Arc<Slots>]>,
    /// New connections per second; 0 is no bound.
    pub connect_rate: u32,
}

/// Accepts on every listener until the shutdown, and hands each connection to a worker. Returns when
/// every listener is closed.
///
/// # Errors
/// When a socket cannot be registered with the runtime, or an accept loop has panicked.
pub async fn run(
    listeners: Vec<Bound>,
    workers: Arc<Workers>,
    shutdown: Shutdown,
    serve: Serve,
) -> io::Result<()> {
    let mut loops = JoinSet::new();
    for listener in listeners {
        let socket = TcpListener::from_std(listener.socket)?;
        let accept = AcceptLoop {
            socket,
            metrics: Arc::clone(&listener.acceptor.metrics),
            acceptor: listener.acceptor,
            slots: listener.slots,
            pace: Pace::new(listener.connect_rate),
            workers: Arc::clone(&workers),
            serve: Arc::clone(&serve),
            logged: None,
        };
        let shutdown = shutdown.clone();
        loops.spawn(async move {
            tokio::select! {
                () = accept.run() => {}
                () = shutdown.wait() => {}
            }
        });
    }
    let mut result = Ok(());
    while let Some(ended) = loops.join_next().await {
        if ended.is_err() {
            // Without its listener the broker is of no use: better a clean end than half of one.
            result = Err(io::Error::other("an accept loop has panicked"));
            shutdown.trigger();
        }
    }
    result
}

struct AcceptLoop {
    socket: TcpListener,
    acceptor: Arc<Acceptor>,
    slots: Box<[Arc<Slots>]>,
    pace: Pace,
    workers: Arc<Workers>,
    serve: Serve,
    metrics: Arc<Metrics>,
    /// When an error was last written to the log.
    logged: Option<Instant>,
}

impl AcceptLoop {
    async fn run(mut self) {
        loop {
            if let Some(pause) = self.pace.take(Instant::now()) {
                tokio::time::sleep(pause).await;
                continue;
            }
            // The socket leaves this runtime at once: it will be registered with its worker's.
            let accepted = self.socket.accept().await;
            match accepted.and_then(|(socket, peer)| Ok((socket.into_std()?, peer))) {
                Ok((socket, peer)) => self.hand_over(socket, peer),
                Err(error) => {
                    self.metrics.accept_errors.inc();
                    if self.note(&error) {
                        tokio::time::sleep(ERROR_PAUSE).await;
                    }
                }
            }
        }
    }

    fn hand_over(&self, socket: std::net::TcpStream, peer: SocketAddr) {
        let accepted_at = Instant::now();
        self.metrics.sockets_accepted.inc();
        let listener = &*self.acceptor.info.name;
        let Some(slot) = Slot::take(&self.slots) else {
            self.metrics.refused("full");
            tracing::debug!(listener, %peer, "connection refused: max_connections are open");
            return;
        };
        let (acceptor, serve) = (Arc::clone(&self.acceptor), Arc::clone(&self.serve));
        let job = move || {
            // In a box of its own with all that it needs, so that its memory is gone once the handshake is done.
            let handshake =
                Box::pin(async move { acceptor.accept(socket, peer, accepted_at, slot).await });
            async move {
                // Nothing but this is kept while it runs.
                let Some(serving) = handshake.await.map(&*serve) else {
                    return;
                };
                serving.await;
            }
        };
        if let Err(error) = self.workers.spawn_on_least_loaded(job) {
            self.metrics.refused("busy");
            tracing::debug!(listener, %peer, "connection refused: {error}");
        }
    }

    /// Logs an error of accept, not too often. True when it pays to wait before the next attempt.
    fn note(&mut self, error: &io::Error) -> bool {
        use rustix::io::Errno;
        let code = error.raw_os_error();
        let of_client = [Errno::CONNABORTED, Errno::INTR, Errno::PROTO, Errno::PERM];
        if of_client
            .iter()
            .any(|errno| code == Some(errno.raw_os_error()))
        {
            return false;
        }
        let due = self.logged.is_none_or(|last| last.elapsed() >= ERROR_LOG);
        if due {
            self.logged = Some(Instant::now());
            let out_of_files = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
            let listener = &*self.acceptor.info.name;
            if out_of_files
                .iter()
                .any(|errno| code == Some(errno.raw_os_error()))
            {
                tracing::error!(code = %Code::OutOfFiles, listener, %error, "no more connections can be accepted: raise the limit of open files (ulimit -n, LimitNOFILE), or lower limits.max_connections");
            } else {
                tracing::warn!(listener, %error, "accepting a connection failed");
            }
        }
        true
    }
}

/// Lets a fixed number of connections through per second, with bursts of a tenth of that.
#[derive(Debug)]
pub(crate) struct Pace {
    gap: Option<Duration>,
    slack: Duration,
    /// When the next one would be due if they came evenly.
    due: Option<Instant>,
}

impl Pace {
    pub(crate) fn new(per_second: u32) -> Self {
        let gap = (per_second > 0).then(|| Duration::from_secs(1) / per_second);
        Self {
            gap,
            slack: Duration::from_millis(100),
            due: None,
        }
    }

    /// Takes one; or says how long to wait before asking again, with none taken.
    pub(crate) fn take(&mut self, now: Instant) -> Option<Duration> {
        let gap = self.gap?;
        let due = self.due.unwrap_or(now);
        let early = due.saturating_duration_since(now);
        if early > self.slack {
            return Some(early - self.slack);
        }
        self.due = Some(due.max(now) + gap);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many get through from now on, asking every millisecond for `span` milliseconds.
    fn through(pace: &mut Pace, start: Instant, span: u64) -> u32 {
        let mut ask = |at| pace.take(start + Duration::from_millis(at)).is_none();
        u32::try_from((0..span).filter(|at| ask(*at)).count()).unwrap()
    }

    impl Pace {
        fn burst(&mut self, now: Instant) -> u32 {
            u32::try_from(std::iter::from_fn(|| self.take(now).is_none().then_some(())).count())
                .unwrap()
        }
    }

    #[test]
    fn a_rate_holds_with_a_burst_of_a_tenth_of_it() {
        let mut pace = Pace::new(100);
        let start = Instant::now();
        assert_eq!(pace.burst(start), 11);
        // What was early is made up for by the end of the second.
        let later = start + Duration::from_millis(1);
        let total = 11 + through(&mut pace, later, 1_000);
        assert!((105..=112).contains(&total), "{total} in the first second");
        let after_silence = start + Duration::from_secs(100);
        assert_eq!(pace.burst(after_silence), 11, "silence is not saved up");
    }

    #[test]
    fn a_refusal_says_when_to_ask_again() {
        let mut pace = Pace::new(10);
        let start = Instant::now();
        pace.burst(start);
        let wait = pace.take(start).unwrap();
        assert_eq!(pace.take(start + wait), None);
    }

    #[test]
    fn without_a_rate_everything_gets_through() {
        let mut pace = Pace::new(0);
        assert_eq!(through(&mut pace, Instant::now(), 1_000), 1_000);
    }
}

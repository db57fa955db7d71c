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

use super::{
    Admission, Serve, Slot,
    acceptor::Acceptor,
    gate::{Gate, Place},
    slots::Slots,
};
use crate::{
    abuse::{Here, Shaking},
    config::ProxyProtocol,
    error::Code,
    ops::Metrics,
    shutdown::Shutdown,
    workers::Workers,
};

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
    /// The bounds on those who come in.
    pub gate: Arc<Gate>,
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
            gate: listener.gate,
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
    gate: Arc<Gate>,
    workers: Arc<Workers>,
    serve: Serve,
    metrics: Arc<Metrics>,
    /// When an error was last written to the log.
    logged: Option<Instant>,
}

impl AcceptLoop {
    async fn run(mut self) {
        loop {
            // The socket leaves this runtime at once: it will be registered with its worker's.
            let accepted = self.socket.accept().await;
            match accepted.and_then(|(socket, peer)| Ok((socket.into_std()?, peer))) {
                Ok((socket, peer)) => {
                    // Behind a balancer it is not known yet whose socket it is.
                    let behind = self.acceptor.proxy != ProxyProtocol::Off;
                    let from = match behind {
                        true => None,
                        false => match self.acceptor.enter(peer.ip()) {
                            Ok(from) => from,
                            Err(_) => continue,
                        },
                    };
                    let place = self.gate.enter().await;
                    self.hand_over(socket, peer, place, from);
                }
                Err(error) => {
                    self.metrics.accept_errors.inc();
                    if self.note(&error) {
                        tokio::time::sleep(ERROR_PAUSE).await;
                    }
                }
            }
        }
    }

    fn hand_over(
        &self,
        socket: std::net::TcpStream,
        peer: SocketAddr,
        place: Place,
        from: Option<(Box<Here>, Shaking)>,
    ) {
        let (here, shaking) = from.unzip();
        let accepted_at = Instant::now();
        self.metrics.sockets_accepted.inc();
        let info = self.acceptor.info();
        let listener = &*info.name;
        // Without a slot it is served up to its CONNECT, so that it can be told why not.
        let admission = Admission {
            slot: Slot::take(&self.slots),
            place,
            here,
            shaking,
        };
        let (acceptor, serve) = (Arc::clone(&self.acceptor), Arc::clone(&self.serve));
        let job = move || {
            // In a box of its own with all that it needs, so that its memory is gone once the handshake is done.
            let handshake =
                Box::pin(
                    async move { acceptor.accept(socket, peer, accepted_at, admission).await },
                );
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
            let info = self.acceptor.info();
            let listener = &*info.name;
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

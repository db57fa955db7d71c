//! The network between one replica and Redis, with faults.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// How long a thread looks at a socket before it looks at the faults again.
const LOOK: Duration = Duration::from_millis(20);

/// What the network does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Everything gets through.
    Open,
    /// Connections are reset, and none can be made.
    Cut,
    /// Connections stand, and nothing gets through: bytes wait for the end of it.
    Hole,
}

struct State {
    target: SocketAddr,
    mode: Mode,
    delay: Duration,
    /// Rises with every cut: connections of before are closed.
    cuts: u64,
    /// The next answer is lost, and its connection with it.
    answer_lost: bool,
}

/// A TCP proxy on a port of its own. Ends when it goes out of scope.
pub(crate) struct Proxy {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    ended: Arc<AtomicBool>,
}

impl Proxy {
    /// A proxy in front of `target`.
    pub(crate) fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let address = listener.local_addr().expect("its address");
        let state = Arc::new(Mutex::new(State {
            target,
            mode: Mode::Open,
            delay: Duration::ZERO,
            cuts: 0,
            answer_lost: false,
        }));
        let ended = Arc::new(AtomicBool::new(false));
        let (shared, end) = (Arc::clone(&state), Arc::clone(&ended));
        thread::spawn(move || accept(&listener, &shared, &end));
        Self {
            address,
            state,
            ended,
        }
    }

    /// Where it listens.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Resets all connections and refuses new ones.
    pub(crate) fn cut(&self) {
        let mut state = lock(&self.state);
        state.mode = Mode::Cut;
        state.cuts += 1;
    }

    /// What the server says next is lost, and the connection is reset: the request has been executed, and who sent it does not know.
    #[allow(dead_code, reason = "shared with the adapter's tests")]
    pub(crate) fn lose_an_answer(&self) {
        lock(&self.state).answer_lost = true;
    }

    /// Lets nothing through, and tells nobody.
    pub(crate) fn black_hole(&self) {
        lock(&self.state).mode = Mode::Hole;
    }

    /// Lets everything through again.
    pub(crate) fn heal(&self) {
        lock(&self.state).mode = Mode::Open;
    }

    /// Delays each direction.
    pub(crate) fn delay(&self, delay: Duration) {
        lock(&self.state).delay = delay;
    }

    /// Leads to another server from now on: all connections are reset.
    pub(crate) fn retarget(&self, target: SocketAddr) {
        let mut state = lock(&self.state);
        state.target = target;
        state.cuts += 1;
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.cut();
        self.ended.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts.
        drop(TcpStream::connect_timeout(&self.address, LOOK));
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn accept(listener: &TcpListener, state: &Arc<Mutex<State>>, ended: &AtomicBool) {
    for client in listener.incoming() {
        if ended.load(Ordering::Relaxed) {
            return;
        }
        let Ok(client) = client else { continue };
        let state = Arc::clone(state);
        thread::spawn(move || connection(client, &state));
    }
}

fn connection(client: TcpStream, state: &Arc<Mutex<State>>) {
    let (mode, target, cuts) = {
        let state = lock(state);
        (state.mode, state.target, state.cuts)
    };
    if mode == Mode::Cut {
        reset(&client);
        return;
    }
    // In a hole the kernel has taken the connection, as an overloaded peer's would; it leads somewhere when the hole ends.
    let server = loop {
        let (mode, now) = {
            let state = lock(state);
            (state.mode, state.cuts)
        };
        if now != cuts {
            reset(&client);
            return;
        }
        if mode == Mode::Open {
            break TcpStream::connect_timeout(&target, Duration::from_secs(2));
        }
        thread::sleep(LOOK);
    };
    let Ok(server) = server else {
        reset(&client);
        return;
    };
    let clones = (client.try_clone(), server.try_clone());
    let (Ok(client_too), Ok(server_too)) = clones else {
        return;
    };
    let other = Arc::clone(state);
    thread::spawn(move || pump(client_too, server_too, &other, cuts, false));
    pump(server, client, state, cuts, true);
}

/// Bytes from one side to the other, until one closes or a fault closes both.
fn pump(mut from: TcpStream, mut to: TcpStream, state: &Mutex<State>, cuts: u64, answers: bool) {
    from.set_nodelay(true).ok();
    to.set_nodelay(true).ok();
    from.set_read_timeout(Some(LOOK)).ok();
    let mut chunk = vec![0; 64 * 1024];
    loop {
        let (mode, delay, now) = {
            let state = lock(state);
            (state.mode, state.delay, state.cuts)
        };
        if now != cuts {
            reset(&from);
            reset(&to);
            return;
        }
        if mode == Mode::Hole {
            thread::sleep(LOOK);
            continue;
        }
        match from.read(&mut chunk) {
            Ok(0) => {
                to.shutdown(Shutdown::Write).ok();
                return;
            }
            Ok(_) if answers && std::mem::take(&mut lock(state).answer_lost) => {
                reset(&from);
                reset(&to);
                return;
            }
            Ok(count) => {
                // What was read within the last look before a hole is not let through in it.
                let late = Instant::now() + delay;
                loop {
                    let (mode, now) = {
                        let state = lock(state);
                        (state.mode, state.cuts)
                    };
                    if now != cuts {
                        reset(&from);
                        reset(&to);
                        return;
                    }
                    if mode != Mode::Hole && Instant::now() >= late {
                        break;
                    }
                    thread::sleep(Duration::from_millis(1));
                }
                if to
                    .write_all(chunk.get(..count).unwrap_or_default())
                    .is_err()
                {
                    reset(&from);
                    return;
                }
            }
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => {}
                _ => {
                    reset(&to);
                    return;
                }
            },
        }
    }
}

fn reset(stream: &TcpStream) {
    stream.shutdown(Shutdown::Both).ok();
}

//! A TCP load balancer that deals connections to the replicas in turn, and passes by one that is not there.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

/// A balancer on a port of its own. Ends when it goes out of scope; connections end with their clients.
pub(crate) struct Balancer {
    address: SocketAddr,
    ended: Arc<AtomicBool>,
}

impl Balancer {
    /// A balancer in front of `replicas`.
    pub(crate) fn start(replicas: Vec<SocketAddr>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let address = listener.local_addr().expect("its address");
        let ended = Arc::new(AtomicBool::new(false));
        let end = Arc::clone(&ended);
        let next = Arc::new(AtomicUsize::new(0));
        let replicas = Arc::new(replicas);
        thread::spawn(move || {
            for client in listener.incoming() {
                if end.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(client) = client else { continue };
                let (replicas, next) = (Arc::clone(&replicas), Arc::clone(&next));
                thread::spawn(move || connection(client, &replicas, &next));
            }
        });
        Self { address, ended }
    }

    /// Where it listens.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts.
        drop(TcpStream::connect_timeout(
            &self.address,
            Duration::from_millis(200),
        ));
    }
}

fn connection(client: TcpStream, replicas: &[SocketAddr], next: &AtomicUsize) {
    let server = (0..replicas.len()).find_map(|_| {
        let turn = next.fetch_add(1, Ordering::Relaxed) % replicas.len();
        let address = replicas.get(turn)?;
        TcpStream::connect_timeout(address, Duration::from_millis(500)).ok()
    });
    let Some(server) = server else {
        client.shutdown(Shutdown::Both).ok();
        return;
    };
    let clones = (client.try_clone(), server.try_clone());
    if let (Ok(client_too), Ok(server_too)) = clones {
        thread::spawn(move || pump(client_too, server_too));
        pump(server, client);
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream) {
    to.set_nodelay(true).ok();
    let mut chunk = vec![0; 64 * 1024];
    while let Ok(count) = from.read(&mut chunk) {
        if count == 0
            || to
                .write_all(chunk.get(..count).unwrap_or_default())
                .is_err()
        {
            break;
        }
    }
    // Each side learns of the other's end.
    to.shutdown(Shutdown::Both).ok();
    from.shutdown(Shutdown::Both).ok();
}

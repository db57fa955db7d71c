//! One non-blocking connection, plain or over TLS: bytes in, packets out of them, bytes out in one write.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use socket2::{Domain, Protocol, Socket, Type};

/// TLS records that one read takes at most, each up to 16 KiB.
const RECORDS_MAX: usize = 16;

/// A connection and what is not yet written to it or not yet whole.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    tls: Option<Box<ClientConnection>>,
    /// The beginning of a packet whose end has not come.
    pub(crate) part: Vec<u8>,
    /// To be written.
    pub(crate) out: Vec<u8>,
    written: usize,
    /// The socket takes no more; wait until it is writable.
    pub(crate) blocked: bool,
}

impl Connection {
    /// Begins to connect from 127.0.0.`source`; the socket is writable when it is done.
    /// `receive`: bytes that the system keeps of what was not read, where it is not to choose itself.
    pub(crate) fn begin(
        to: SocketAddr,
        source: Option<Ipv4Addr>,
        receive: Option<usize>,
        tls: Option<&Arc<ClientConfig>>,
    ) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
        if let Some(source) = source.filter(|_| to.ip().is_loopback() && to.is_ipv4()) {
            socket.bind(&SocketAddr::from((source, 0)).into())?;
        }
        if let Some(bytes) = receive {
            socket.set_recv_buffer_size(bytes)?;
        }
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        match socket.connect(&to.into()) {
            Ok(()) => {}
            Err(error) if in_progress(&error) => {}
            Err(error) => return Err(error),
        }
        let tls = tls.map(|config| {
            let name = ServerName::from(to.ip());
            ClientConnection::new(config.clone(), name).map(Box::new)
        });
        Ok(Self {
            stream: socket.into(),
            tls: tls.transpose().map_err(io::Error::other)?,
            part: Vec::new(),
            out: Vec::new(),
            written: 0,
            blocked: true,
        })
    }

    /// Takes a connection that a listener has accepted.
    pub(crate) fn accepted(stream: TcpStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            tls: None,
            part: Vec::new(),
            out: Vec::new(),
            written: 0,
            blocked: false,
        })
    }

    /// Whether connecting worked; to be asked once the socket is writable.
    pub(crate) fn connected(&mut self) -> io::Result<()> {
        self.blocked = false;
        self.stream.take_error()?.map_or(Ok(()), Err)
    }

    /// Reads once into `buffer`, behind what was left of the last read. Returns the bytes there are in all;
    /// 0 when the other side closed, `None` when there was nothing to read.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let kept = self.part.len();
        let (front, rest) = buffer
            .split_at_mut_checked(kept)
            .ok_or_else(|| io::Error::other("a packet is larger than the read buffer"))?;
        front.copy_from_slice(&self.part);
        let read = match &mut self.tls {
            None => self.stream.read(rest),
            Some(tls) => read_tls(tls, &mut self.stream, rest),
        };
        match read {
            Ok(0) => Ok(Some(0)),
            Ok(count) => Ok(Some(kept + count)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether something waits to be written that is not in `out`: a part of a TLS handshake.
    pub(crate) fn has_records(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.wants_write())
    }

    /// Writes what there is, as far as the socket takes it.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        loop {
            let rest = self.out.get(self.written..).unwrap_or_default();
            let written = match &mut self.tls {
                None if rest.is_empty() => break,
                None => self.stream.write(rest),
                // What it takes it keeps, until the handshake is over or the socket takes more.
                Some(tls) => tls.writer().write(rest).and_then(|taken| {
                    self.written += taken;
                    if !tls.wants_write() {
                        return Ok(0);
                    }
                    tls.write_tls(&mut self.stream).map(|_| 0)
                }),
            };
            match written {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.blocked = true;
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
            if self.tls.is_some() && !self.has_records() {
                // Before the handshake is over, the rest waits here.
                self.blocked = false;
                if self.written < self.out.len() {
                    return Ok(());
                }
                break;
            }
        }
        self.out.clear();
        self.written = 0;
        self.blocked = false;
        Ok(())
    }

    /// Ends it; a broker that was faster is no error.
    pub(crate) fn shut_down(&self, how: Shutdown) -> io::Result<()> {
        match self.stream.shutdown(how) {
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
            result => result,
        }
    }

    /// Gives back the memory of what was written.
    pub(crate) fn shrink_out(&mut self) {
        if self.out.is_empty() {
            self.out = Vec::new();
        }
    }

    /// Gives back the memory of a connection that will be quiet.
    pub(crate) fn shrink(&mut self) {
        self.out = Vec::new();
        self.part = Vec::new();
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// Reads what is there, decrypted, into `buffer`; 0 when the other side closed.
fn read_tls(
    tls: &mut ClientConnection,
    stream: &mut TcpStream,
    buffer: &mut [u8],
) -> io::Result<usize> {
    let mut filled = 0;
    for _ in 0..RECORDS_MAX {
        match tls.read_tls(stream) {
            Ok(0) if filled == 0 => return Ok(0),
            Ok(0) => break,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && filled > 0 => break,
            Err(error) => return Err(error),
        }
        tls.process_new_packets().map_err(io::Error::other)?;
        while let Some(room) = buffer.get_mut(filled..).filter(|room| !room.is_empty()) {
            match tls.reader().read(room) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
    }
    if filled == 0 {
        return Err(io::ErrorKind::WouldBlock.into());
    }
    Ok(filled)
}

fn in_progress(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error())
}

/// Connections that this process has begun.
static BEGUN: AtomicUsize = AtomicUsize::new(0);

/// The address that the next connection of this process comes from: 127.0.0.2 and up, for so many connections each.
/// Ports of connections that have ended are not free for a minute, and finding one among many such takes long.
pub(crate) fn next_source(per_source: usize) -> Ipv4Addr {
    let number = BEGUN.fetch_add(1, Ordering::Relaxed);
    let place = u8::try_from(number / per_source.max(1) % 250).unwrap_or(0);
    Ipv4Addr::new(127, 0, 0, 2 + place)
}

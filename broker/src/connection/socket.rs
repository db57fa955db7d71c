//! What a connection reads from its socket, and writes to it.

use std::cell::RefCell;
use std::io::IoSlice;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::close::Closing;
use super::run::Connection;

/// Buffers per `writev`.
const SLICES: usize = 16;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Connection {
    /// Writes until nothing is left or the socket is full.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>) -> std::io::Result<()> {
        while !self.writing.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let filled = self.writing.io_slices(&mut slices);
            match Pin::new(&mut self.transport).poll_write_vectored(cx, &slices[..filled]) {
                Poll::Ready(Ok(0)) => return Err(std::io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(written)) => {
                    self.writing.consume(written);
                    self.needs_flush = true;
                    self.hub.metrics.written(written as u64);
                }
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => {
                    self.session.lock().blocked = true;
                    return Ok(());
                }
            }
        }
        if self.needs_flush {
            match Pin::new(&mut self.transport).poll_flush(cx) {
                Poll::Ready(flushed) => {
                    flushed?;
                    self.needs_flush = false;
                }
                Poll::Pending => {}
            }
        }
        Ok(())
    }

    /// Reads once and handles what came. `Pending`: nothing is there, or nothing may be read now.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Closing>> {
        if !self.may_read(cx) {
            return Poll::Pending;
        }
        SCRATCH.with_borrow_mut(|scratch| {
            let size = self.hub.limits.read_buffer as usize;
            if scratch.len() < size {
                scratch.resize(size, 0);
            }
            let mut read = ReadBuf::new(&mut scratch[..size]);
            match Pin::new(&mut self.transport).poll_read(cx, &mut read) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(Err(error)) => Poll::Ready(Err(Closing::Lost(error.to_string()))),
                Poll::Ready(Ok(())) if read.filled().is_empty() => Poll::Ready(Err(Closing::Lost(
                    "closed by the client without DISCONNECT".into(),
                ))),
                Poll::Ready(Ok(())) => {
                    self.last_read = Instant::now();
                    self.held_back = false;
                    Poll::Ready(self.take_in(read.filled()))
                }
            }
        })
    }

    /// Handles what came behind CONNECT.
    pub(super) fn take_in_rest(&mut self) -> Result<(), Closing> {
        let rest = std::mem::take(&mut self.partial);
        if rest.is_empty() {
            return Ok(());
        }
        self.take_in(&rest)
    }

    /// Handles the packets in `bytes`, which follow what is left of earlier ones.
    fn take_in(&mut self, bytes: &[u8]) -> Result<(), Closing> {
        if self.partial.is_empty() {
            let consumed = self.process(bytes)?;
            self.partial
                .extend_from_slice(bytes.get(consumed..).unwrap_or_default());
            return Ok(());
        }
        let mut whole = std::mem::take(&mut self.partial);
        whole.extend_from_slice(bytes);
        let consumed = self.process(&whole)?;
        if consumed == 0 {
            self.partial = whole;
        } else {
            self.unfinished = None;
            self.partial = whole.get(consumed..).unwrap_or_default().to_vec();
        }
        Ok(())
    }
}

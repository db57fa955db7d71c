//! One connection while it carries traffic: what is read and written.

use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;

use super::connect::{READ_BYTES, Wire};
use super::link::End;
use super::traffic::Traffic;

pub(super) enum Step {
    Read(std::io::Result<usize>),
    Wrote(std::io::Result<usize>),
    Flushed(std::io::Result<()>),
    Woken,
    Tick,
}

/// Writes what there is; with nothing left to write, sees to it that it leaves. Cancel safe.
pub(super) async fn push(write: &mut (impl AsyncWrite + Unpin), rest: &[u8]) -> Step {
    match rest.is_empty() {
        false => Step::Wrote(write.write(rest).await),
        true => Step::Flushed(write.flush().await),
    }
}

/// A connection that carries traffic.
pub(super) struct Serving {
    pub(super) wire: Wire,
    pub(super) out: Vec<u8>,
    pub(super) written: usize,
    pub(super) unflushed: bool,
    /// When something came last, or nothing was asked.
    pub(super) heard: Instant,
    pub(super) since: Instant,
    pub(super) pinged: Option<Instant>,
    pub(super) asked_memory: Option<Instant>,
}

impl Serving {
    pub(super) fn fill(&mut self, traffic: &mut Traffic) {
        traffic.poll_output(Instant::now(), &mut self.out);
    }

    pub(super) fn wrote(&mut self, wrote: std::io::Result<usize>) -> Result<(), End> {
        match wrote {
            Ok(0) => {
                return Err(End::Failed(
                    self.wire.io(std::io::ErrorKind::WriteZero.into()),
                ));
            }
            Ok(count) => self.written += count,
            Err(error) => return Err(End::Failed(self.wire.io(error))),
        }
        self.unflushed = true;
        if self.written == self.out.len() {
            self.out.clear();
            self.written = 0;
            if self.out.capacity() > READ_BYTES * 16 {
                self.out = Vec::new();
            }
        }
        Ok(())
    }

    pub(super) fn flushed(&mut self, flushed: std::io::Result<()>) -> Result<(), End> {
        self.unflushed = false;
        flushed.map_err(|error| End::Failed(self.wire.io(error)))
    }
}

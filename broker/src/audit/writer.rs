//! The thread that writes the lines.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering, mpsc::Receiver},
    time::{Duration, Instant},
};

use tracing_subscriber::fmt::{
    format,
    time::{FormatTime, SystemTime},
};

use super::{
    Shared,
    event::{Event, Kind},
};
use crate::error::Code;

/// The log says at most this often that the file cannot be written.
const ERROR_LOG: Duration = Duration::from_secs(10);

/// An event and its time.
#[derive(Debug)]
pub(super) struct Line {
    time: String,
    event: Event,
}

impl Line {
    /// Of now.
    pub(super) fn now(event: Event) -> Self {
        let mut time = String::with_capacity(32);
        // Writing to a String does not fail.
        let _infallible = SystemTime
            .format_time(&mut format::Writer::new(&mut time))
            .is_ok();
        Self { time, event }
    }
}

/// Where lines are written.
#[derive(Debug)]
pub(super) enum Sink {
    Log,
    File(BufWriter<File>, PathBuf),
}

impl Sink {
    pub(super) fn file(file: File, path: &Path) -> Self {
        Self::File(BufWriter::new(file), path.to_owned())
    }

    fn write(&mut self, line: &Line) -> std::io::Result<()> {
        match self {
            Self::Log => {
                tracing::info!(target: "dunlin_audit", event = line.event.kind().as_str(), "audit: {} {}", line.event.kind().as_str(), line.event.words());
                Ok(())
            }
            Self::File(file, _) => writeln!(file, "{}", line.event.line(&line.time)),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match self {
            Self::Log => Ok(()),
            Self::File(file, _) => file.flush(),
        }
    }
}

pub(super) struct Writer {
    lines: Receiver<Line>,
    sink: Sink,
    shared: Arc<Shared>,
    /// When it was last said that the file cannot be written.
    said: Option<Instant>,
}

impl Writer {
    pub(super) fn new(lines: Receiver<Line>, sink: Sink, shared: Arc<Shared>) -> Self {
        Self {
            lines,
            sink,
            shared,
            said: None,
        }
    }

    /// Writes until nobody can tell of anything any more.
    pub(super) fn run(mut self) {
        while let Ok(first) = self.lines.recv() {
            if let Some(next) = self.shared.next.lock().take() {
                self.sink = next;
            }
            let mut batch = 1;
            let mut result = self.write_lost().and_then(|()| self.sink.write(&first));
            while let Ok(line) = self.lines.try_recv() {
                batch += 1;
                result = result.and_then(|()| self.sink.write(&line));
            }
            if let Err(error) = result.and_then(|()| self.sink.flush()) {
                self.failed(batch, &error);
            }
            self.shared.done.fetch_add(batch, Ordering::Release);
        }
    }

    /// Says how many events were lost before this one.
    fn write_lost(&mut self) -> std::io::Result<()> {
        let lost = self.shared.lost.swap(0, Ordering::Relaxed);
        if lost == 0 {
            return Ok(());
        }
        let event = Event::new(Kind::Lost).by("broker").detail("events", lost);
        self.sink.write(&Line::now(event))
    }

    /// What of the batch has reached the file cannot be told: all of it counts as lost. The file is opened anew, so that
    /// the half of a line that may wait in the buffer is not written behind somebody's repair.
    fn failed(&mut self, batch: u64, error: &std::io::Error) {
        self.shared.lose(batch);
        let Sink::File(_, path) = &self.sink else {
            return;
        };
        let path = path.clone();
        if self.said.is_none_or(|said| said.elapsed() >= ERROR_LOG) {
            self.said = Some(Instant::now());
            tracing::error!(code = %Code::Audit, file = %path.display(), %error, "the audit log cannot be written: events are lost");
        }
        if let Ok(file) = super::append(&path) {
            let old = std::mem::replace(&mut self.sink, Sink::file(file, &path));
            if let Sink::File(old, _) = old {
                let (_file, _unwritten) = old.into_parts();
            }
        }
    }
}

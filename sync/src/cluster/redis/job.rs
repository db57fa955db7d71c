//! One command on its way, and the call that waits for it.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::encode::{Command, Shape};
use crate::cluster::{BUCKETS, BackplaneError, Reply, Request};

/// What becomes of a request.
pub(super) type Outcome = Result<Reply, BackplaneError>;

/// The answers that one call waits for.
pub(super) struct Batch {
    state: Mutex<State>,
}

struct State {
    left: usize,
    answers: Vec<Outcome>,
    tell: Option<oneshot::Sender<Vec<Outcome>>>,
    /// Bucket by bucket, for a request that became several commands.
    versions: Vec<u64>,
}

impl Batch {
    /// For so many answers, which come from so many commands.
    pub(super) fn new(
        answers: usize,
        commands: usize,
    ) -> (Arc<Self>, oneshot::Receiver<Vec<Outcome>>) {
        let (tell, told) = oneshot::channel();
        let batch = Self {
            state: Mutex::new(State {
                left: commands,
                answers: vec![Err(BackplaneError::Closed); answers],
                tell: Some(tell),
                versions: Vec::new(),
            }),
        };
        (Arc::new(batch), told)
    }

    /// So many more answers come.
    pub(super) fn expect(&self, more: usize) {
        self.state.lock().left += more;
    }

    /// The outcome of a command.
    pub(super) fn answer(&self, index: usize, shape: Shape, outcome: Outcome) {
        let mut state = self.state.lock();
        let outcome = match (shape, outcome) {
            (Shape::OneVersion(bucket), Ok(Reply::Version(version))) => {
                state.versions.resize(usize::from(BUCKETS), 0);
                if let Some(slot) = state.versions.get_mut(usize::from(bucket)) {
                    *slot = version;
                }
                Ok(Reply::Versions(Vec::new()))
            }
            (_, outcome) => outcome,
        };
        if let Some(slot) = state.answers.get_mut(index) {
            *slot = outcome;
        }
        state.left = state.left.saturating_sub(1);
        if state.left == 0 {
            state.finish();
        }
    }
}

impl State {
    fn finish(&mut self) {
        let versions = std::mem::take(&mut self.versions);
        let mut answers = std::mem::take(&mut self.answers);
        if !versions.is_empty() {
            for answer in &mut answers {
                if matches!(answer, Ok(Reply::Versions(list)) if list.is_empty()) {
                    *answer = Ok(Reply::Versions(versions.clone()));
                }
            }
        }
        if let Some(tell) = self.tell.take() {
            // Whoever dropped the future does not want to know.
            drop(tell.send(answers));
        }
    }
}

/// Where an answer goes.
pub(super) enum Whose {
    /// To a call.
    Call { batch: Arc<Batch>, index: usize },
    /// To the connection itself: the watchdog's `PING`.
    Ping,
    /// To the connection itself: how much memory is in use.
    Memory,
    /// To the connection itself: `WAIT` for replicas.
    Wait,
    /// To nobody.
    Nobody,
}

/// One command on its way.
pub(super) struct Job {
    pub(super) command: Command,
    /// Order of arrival.
    pub(super) order: u64,
    pub(super) whose: Whose,
    /// Answers that have come, of those that the command has.
    pub(super) got: u8,
    /// The first error among them.
    pub(super) error: Option<String>,
    /// The first answer of a command of two steps.
    pub(super) first: Option<Reply>,
}

impl Job {
    pub(super) fn new(command: Command, whose: Whose) -> Self {
        Self {
            command,
            order: 0,
            whose,
            got: 0,
            error: None,
            first: None,
        }
    }

    /// To be sent again, from the beginning.
    pub(super) fn reset(&mut self) {
        self.got = 0;
        self.error = None;
    }

    /// Tells whoever waits. Hands the command back, to be kept.
    pub(super) fn answer(self, outcome: Outcome) -> Command {
        if let Whose::Call { batch, index } = self.whose {
            batch.answer(index, self.command.shape, outcome);
        }
        self.command
    }

    /// Tells whoever waits.
    pub(super) fn finish(self, outcome: Outcome) {
        drop(self.answer(outcome));
    }
}

/// A request that waits until it is known what Redis is: standalone or a cluster.
pub(super) struct Early {
    pub(super) request: Request,
    pub(super) batch: Arc<Batch>,
    pub(super) index: usize,
}

/// What a repetition after a failover has to know of the first answer; `None` if it changed nothing.
pub(super) fn memo(shape: Shape, reply: &Reply) -> Option<Bytes> {
    Some(match reply {
        Reply::Fenced => return None,
        Reply::Claimed { epoch, session, .. } => match session {
            Some(session) => format!("{}:{}", epoch.0, session.0).into(),
            None => epoch.0.to_string().into(),
        },
        Reply::Joined { replica } => replica.0.to_string().into(),
        Reply::Version(version) => version.to_string().into(),
        Reply::RecordsPut { version: 0, .. } => return None,
        Reply::RecordsPut { version, outcomes } => {
            let fates = outcomes.iter().map(|outcome| match outcome.revision() {
                Some(0) => 'g',
                Some(_) => 'd',
                None => 'c',
            });
            format!("{version}:{}", fates.collect::<String>()).into()
        }
        Reply::Flag(false) if shape == Shape::InboxEntry => return None,
        Reply::Appended { seqs, .. } => {
            let mut memo = Vec::with_capacity(seqs.len() * 8);
            for fate in seqs {
                let seq = match fate {
                    crate::cluster::AppendFate::At(seq) => *seq,
                    _ => u64::MAX,
                };
                memo.extend_from_slice(&seq.to_le_bytes());
            }
            if memo.chunks(8).all(|chunk| chunk == [0xff; 8]) {
                return None;
            }
            memo.into()
        }
        _ => Bytes::new(),
    })
}

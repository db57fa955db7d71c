//! All partitions of a tap into BigQuery: one task for each partition, between one feed and one dataset.
//!
//! The loop here only hands over: events of the feed to the partitions, and what the partitions want acknowledged to the feed. A partition that is lost is
//! dropped with everything under way; whoever has it next finds out how far it was (see [`partition`](super::partition)).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::partition::{Acknowledge, Messages, Partition, Shared, TakeUpError, pause_until};
use crate::error::Code;
use crate::rules::Rules;

/// What a feed tells.
#[derive(Debug)]
pub enum Fed<M> {
    /// A partition is ours from here.
    Assigned {
        /// Which.
        partition: u16,
        /// Rises with each change of hands.
        epoch: u64,
        /// Everything below is acknowledged.
        acknowledged: u64,
        /// What was stored with that.
        checkpoint: Vec<u8>,
    },
    /// Messages of a partition.
    Messages {
        /// Which.
        partition: u16,
        /// Under which lease.
        epoch: u64,
        /// They.
        messages: M,
    },
    /// An acknowledgement is stored. They come in the order in which they were asked for.
    Acknowledged {
        /// Of which partition.
        partition: u16,
        /// What [`Feed::acknowledge`] gave back.
        number: u64,
    },
    /// A partition is not ours any more.
    Lost {
        /// Which.
        partition: u16,
        /// The lease that has ended.
        epoch: u64,
    },
}

/// Where messages come from, partition by partition. It bounds what it gives ahead of the acknowledgements.
#[async_trait]
pub trait Feed: Send {
    /// What it gives.
    type Messages: Messages + 'static;

    /// Waits for what happens next. Cancel safe. `None`: nothing will happen any more.
    async fn next(&mut self) -> Option<Fed<Self::Messages>>;

    /// Stores that everything below `upto` is done, and the checkpoint with it. Gives a number by which [`Fed::Acknowledged`] tells that
    /// it is stored.
    fn acknowledge(&mut self, partition: u16, epoch: u64, acknowledge: Acknowledge) -> u64;

    /// Gives all partitions back.
    async fn leave(self);
}

enum Command<M> {
    Give(M),
    Confirmed,
    Rules(Arc<Rules>),
}

struct Worker<M> {
    epoch: u64,
    /// Tells this worker from an earlier one of the same partition: a lease that was lost and taken again can have the same epoch.
    life: u64,
    /// Numbers of the acknowledgements that it has asked for and that are not stored.
    asked: VecDeque<u64>,
    commands: mpsc::Sender<Command<M>>,
    /// Commands that found no room.
    waiting: VecDeque<Command<M>>,
    task: JoinHandle<()>,
}

impl<M> Drop for Worker<M> {
    fn drop(&mut self) {
        // Everything under way ends here: its streams are finalized by whoever takes up the partition.
        self.task.abort();
    }
}

/// What a worker says.
enum Said {
    Acknowledge(Acknowledge),
    Idle(bool),
    Failed(TakeUpError),
}

/// Commands that may wait in a worker's channel; others wait here, as many as the feed gives ahead.
const COMMANDS: usize = 64;

/// Why it ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A partition cannot be taken up.
    #[error("partition {partition} of the tap: {error}")]
    TakeUp {
        /// Which.
        partition: u16,
        /// Why not.
        error: TakeUpError,
    },
    /// The feed has ended.
    #[error("the connection to the tap is closed")]
    Closed,
}

impl RunError {
    /// The code.
    #[must_use]
    pub const fn code(&self) -> Code {
        match self {
            Self::TakeUp { .. } => Code::CHECKPOINT,
            Self::Closed => Code::TAP_REDIS,
        }
    }
}

/// Runs until `stop` becomes true: then what has been read is stored and acknowledged, for `drain` at the most, and the partitions are
/// given back.
///
/// # Errors
/// See [`RunError`].
pub async fn run<F: Feed>(
    mut feed: F,
    shared: Shared,
    mut rules: watch::Receiver<Arc<Rules>>,
    mut stop: watch::Receiver<bool>,
    drain: Duration,
) -> Result<(), RunError> {
    let mut workers: BTreeMap<u16, Worker<F::Messages>> = BTreeMap::new();
    let mut lives = 0_u64;
    let mut idle: BTreeMap<u16, bool> = BTreeMap::new();
    // Each worker has few things to say at a time.
    let (say, mut said) = mpsc::channel::<(u16, u64, Said)>(256);
    let mut until: Option<Instant> = None;
    loop {
        if until.is_some()
            && workers
                .keys()
                .all(|partition| idle.get(partition) == Some(&true))
        {
            break;
        }
        let deadline = until;
        tokio::select! {
            fed = feed.next() => match fed.ok_or(RunError::Closed)? {
                Fed::Assigned { partition, epoch, acknowledged, checkpoint } => {
                    let rules = Arc::clone(&rules.borrow());
                    let start = Start { partition, epoch, acknowledged, checkpoint, rules };
                    idle.insert(partition, false);
                    lives += 1;
                    workers.insert(partition, worker(start, lives, shared.clone(), say.clone()));
                }
                Fed::Messages { partition, epoch, messages } if until.is_none() => {
                    tell(&mut workers, partition, epoch, Command::Give(messages));
                    idle.insert(partition, false);
                }
                // What is not stored is given again to whoever has the partition next.
                Fed::Messages { .. } => {}
                Fed::Acknowledged { partition, number } => {
                    if let Some(worker) = workers.get_mut(&partition)
                        && worker.asked.front() == Some(&number)
                    {
                        worker.asked.pop_front();
                        worker.tell(Command::Confirmed);
                    }
                }
                Fed::Lost { partition, epoch } => {
                    if workers.get(&partition).is_some_and(|worker| worker.epoch == epoch) {
                        workers.remove(&partition);
                    }
                }
            },
            Some((partition, life, words)) = said.recv() => {
                let current = workers.get_mut(&partition).filter(|worker| worker.life == life);
                let Some(worker) = current else { continue };
                worker.hand_over();
                match words {
                    Said::Acknowledge(acknowledge) => {
                        let number = feed.acknowledge(partition, worker.epoch, acknowledge);
                        worker.asked.push_back(number);
                    }
                    Said::Idle(is_idle) => {
                        idle.insert(partition, is_idle && worker.waiting.is_empty());
                    }
                    Said::Failed(error) => return Err(RunError::TakeUp { partition, error }),
                }
            }
            Ok(()) = rules.changed(), if until.is_none() => {
                let new = Arc::clone(&rules.borrow_and_update());
                for worker in workers.values_mut() {
                    worker.tell(Command::Rules(Arc::clone(&new)));
                }
            }
            _ = stop.wait_for(|stop| *stop), if until.is_none() => until = Some(Instant::now() + drain),
            () = pause_until(deadline) => break,
        }
    }
    drop(workers);
    feed.leave().await;
    Ok(())
}

fn tell<M>(
    workers: &mut BTreeMap<u16, Worker<M>>,
    partition: u16,
    epoch: u64,
    command: Command<M>,
) {
    let worker = workers.get_mut(&partition);
    if let Some(worker) = worker.filter(|worker| worker.epoch == epoch) {
        worker.tell(command);
    }
}

impl<M> Worker<M> {
    fn tell(&mut self, command: Command<M>) {
        self.waiting.push_back(command);
        self.hand_over();
    }

    fn hand_over(&mut self) {
        while let Some(command) = self.waiting.pop_front() {
            if let Err(mpsc::error::TrySendError::Full(command)) = self.commands.try_send(command) {
                self.waiting.push_front(command);
                return;
            }
        }
    }
}

struct Start {
    partition: u16,
    epoch: u64,
    acknowledged: u64,
    checkpoint: Vec<u8>,
    rules: Arc<Rules>,
}

fn worker<M: Messages + 'static>(
    start: Start,
    life: u64,
    shared: Shared,
    say: mpsc::Sender<(u16, u64, Said)>,
) -> Worker<M> {
    let (commands, receiver) = mpsc::channel(COMMANDS);
    let epoch = start.epoch;
    Worker {
        epoch,
        life,
        asked: VecDeque::new(),
        commands,
        waiting: VecDeque::new(),
        task: tokio::spawn(work(start, life, shared, receiver, say)),
    }
}

async fn work<M: Messages>(
    start: Start,
    life: u64,
    shared: Shared,
    mut commands: mpsc::Receiver<Command<M>>,
    say: mpsc::Sender<(u16, u64, Said)>,
) {
    let number = start.partition;
    let taken_up =
        Partition::take_up(shared, start.rules, start.acknowledged, &start.checkpoint).await;
    let mut partition = match taken_up {
        Ok(partition) => partition,
        Err(error) => {
            // Nobody listening means that nobody runs the adapter any more.
            drop(say.send((number, life, Said::Failed(error))).await);
            return;
        }
    };
    let mut was_idle = None;
    loop {
        let is_idle = partition.is_idle() && commands.is_empty();
        let words = if was_idle == Some(is_idle) {
            None
        } else {
            was_idle = Some(is_idle);
            Some(Said::Idle(is_idle))
        };
        let words = match words {
            Some(words) => words,
            None => {
                tokio::select! {
                    acknowledge = partition.next() => Said::Acknowledge(acknowledge),
                    command = commands.recv() => {
                        match command {
                            Some(Command::Give(messages)) => partition.give(messages),
                            Some(Command::Confirmed) => partition.confirmed(),
                            Some(Command::Rules(rules)) => partition.change_rules(rules),
                            None => return,
                        }
                        continue;
                    }
                }
            }
        };
        if say.send((number, life, words)).await.is_err() {
            return;
        }
    }
}

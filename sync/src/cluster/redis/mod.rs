//! The real backplane: Redis, standalone, behind Sentinels, or a Redis Cluster.
//!
//! One connection per master carries all requests: everything that has gathered goes out in one write,
//! and answers come in order (`traffic.rs`). A supervisor keeps it up (`link.rs`). Another connection hears the
//! channels, and a third one waits for frames of the inbox (`listen.rs`). Every request is one script, or
//! one command (`encode/`, `scripts/*.lua`).
//!
//! What an operator has to know is in `docs/redis.md`.

mod cluster;
mod connect;
mod decode;
mod encode;
mod job;
mod judge;
mod link;
mod listen;
mod names;
mod node;
mod options;
mod pool;
mod resp;
mod ring;
mod scripts;
mod sentinel;
mod serving;
mod tls;
mod traffic;
mod url;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use self::pool::Core;
use super::{
    Backplane, BackplaneError, BackplaneEvent, BackplaneStatus, ReplicaId, Replies, Request,
};
use crate::BoxFuture;

pub use self::options::{ANY_NAME, RedisError, RedisOptions};
pub use self::url::{UrlError, check_url, without_password};

/// Events that wait for their reader before Redis is not read any more.
const EVENTS_MAX: usize = 1024;

/// A [`Backplane`] over Redis.
pub struct RedisBackplane {
    core: Arc<Core>,
    main: Mutex<Option<JoinHandle<()>>>,
    /// Dropped: the listening of before ends.
    listening: Mutex<Option<watch::Sender<()>>>,
}

impl RedisBackplane {
    /// Starts connecting, on `handle`. That Redis does not answer is not an error: requests wait.
    ///
    /// # Errors
    ///
    /// The options make no sense, or a file for TLS cannot be used.
    pub fn start(options: RedisOptions, handle: Handle) -> Result<Self, RedisError> {
        let core = Core::new(options, handle.clone())?;
        let main = handle.spawn(Arc::clone(&core).run());
        Ok(Self {
            core,
            main: Mutex::new(Some(main)),
            listening: Mutex::new(None),
        })
    }
}

impl Backplane for RedisBackplane {
    fn execute(&self, requests: Vec<Request>) -> Replies {
        let count = requests.len();
        let told = self.core.submit(requests);
        Box::pin(async move {
            told.await
                .unwrap_or_else(|_| vec![Err(BackplaneError::Closed); count])
        })
    }

    fn listen(&self, replica: ReplicaId) -> mpsc::Receiver<BackplaneEvent> {
        let (tell, told) = mpsc::channel(EVENTS_MAX);
        let (alive, ended) = watch::channel(());
        *self.listening.lock() = Some(alive);
        self.core.gated.store(true, Ordering::Release);
        listen::start(&self.core, replica, &tell, &ended);
        told
    }

    fn abandon(&self) {
        self.core.abandon();
    }

    fn lost_everything(&self) {
        self.core.lost_everything();
    }

    fn status(&self) -> BackplaneStatus {
        self.core.status()
    }

    fn failovers(&self) -> u64 {
        *self.core.failovers.borrow()
    }

    fn made_good(&self, failovers: u64) {
        self.core.made_good(failovers);
    }

    fn close(&self) -> BoxFuture<()> {
        self.core.closed.send_replace(true);
        *self.listening.lock() = None;
        let main = self.main.lock().take();
        Box::pin(async move {
            if let Some(main) = main {
                // A task that panicked has ended, too.
                drop(main.await);
            }
        })
    }
}

impl Drop for RedisBackplane {
    fn drop(&mut self) {
        self.core.closed.send_replace(true);
    }
}

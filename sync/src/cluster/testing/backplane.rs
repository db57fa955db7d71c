//! The backplane over the model.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::timeout_at;

use super::link::{Link, Listener};
use super::server::{Inner, ModelRedis};
use crate::BoxFuture;
use crate::cluster::{
    Backplane, BackplaneError, BackplaneEvent, BackplaneStatus, ReplicaId, Replies, Request,
};

/// Events that wait for a slow reader before they wait on the wire.
const EVENTS: usize = 1024;

/// One replica's way to a [`ModelRedis`]. Dropping it ends its connection, as the end of its process
/// would.
pub struct ModelBackplane {
    inner: Arc<Mutex<Inner>>,
    index: usize,
    notify: Arc<Notify>,
}

impl ModelBackplane {
    pub(super) fn start(redis: &ModelRedis) -> Self {
        let (index, notify) = {
            let mut inner = redis.inner.lock();
            let seed = inner.rng.next();
            let link = Link::new(seed);
            let notify = Arc::clone(&link.notify);
            inner.links.push(link);
            (inner.links.len() - 1, notify)
        };
        tokio::spawn(run(Arc::clone(&redis.inner), index, Arc::clone(&notify)));
        Self {
            inner: Arc::clone(&redis.inner),
            index,
            notify,
        }
    }

    /// What the faults of the server call it: 0 for the first one that connected.
    #[must_use]
    pub fn number(&self) -> usize {
        self.index
    }
}

/// Moves one link through time until it has ended.
async fn run(inner: Arc<Mutex<Inner>>, index: usize, notify: Arc<Notify>) {
    loop {
        let next = {
            let mut inner = inner.lock();
            let next = inner.step(index);
            if inner.links.get(index).is_none_or(|link| link.ended) {
                return;
            }
            next
        };
        match next {
            Some(at) => {
                timeout_at(at, notify.notified()).await.ok();
            }
            None => notify.notified().await,
        }
    }
}

impl Backplane for ModelBackplane {
    fn execute(&self, requests: Vec<Request>) -> Replies {
        let (sender, receiver) = oneshot::channel();
        let count = requests.len();
        if let Some(link) = self.inner.lock().links.get_mut(self.index) {
            link.take(requests, sender);
        }
        self.notify.notify_one();
        Box::pin(async move {
            match receiver.await {
                Ok(answers) => answers,
                Err(_) => vec![Err(BackplaneError::Closed); count],
            }
        })
    }

    fn listen(&self, replica: ReplicaId) -> mpsc::Receiver<BackplaneEvent> {
        let (sender, receiver) = mpsc::channel(EVENTS);
        let mut inner = self.inner.lock();
        let (latency, jitter) = (inner.latency, inner.jitter);
        if let Some(link) = inner.links.get_mut(self.index)
            && !link.ended
        {
            link.events.clear();
            link.listener = Some(Listener {
                replica,
                events: sender,
                read: (0, 0),
                delivered: (0, 0),
            });
            if link.up {
                let at = tokio::time::Instant::now() + link.delay(latency, jitter);
                link.push_event(at, BackplaneEvent::Listening);
            }
            link.notify.notify_one();
        }
        receiver
    }

    fn abandon(&self) {
        let mut inner = self.inner.lock();
        inner.break_link(self.index, "its requests were given up");
        if let Some(link) = inner.links.get_mut(self.index) {
            link.abandon(tokio::time::Instant::now());
            link.notify.notify_one();
        }
    }

    fn status(&self) -> BackplaneStatus {
        let inner = self.inner.lock();
        let Some(link) = inner.links.get(self.index) else {
            return BackplaneStatus::default();
        };
        BackplaneStatus {
            connected: link.up,
            full: inner.full && !link.parked.is_empty(),
            last_error: link.last_error.clone(),
            reconnects: link.reconnects,
            failovers: link.failovers,
            pending: link.pending() as u64,
            masters: vec!["model".to_owned()],
            ping_us: u64::try_from(inner.latency.as_micros())
                .unwrap_or(u64::MAX)
                .saturating_mul(2),
            ..BackplaneStatus::default()
        }
    }

    fn failovers(&self) -> u64 {
        let inner = self.inner.lock();
        inner.links.get(self.index).map_or(0, |link| link.failovers)
    }

    fn made_good(&self, failovers: u64) {
        if let Some(link) = self.inner.lock().links.get_mut(self.index) {
            link.made_good = failovers.max(link.made_good);
            link.notify.notify_one();
        }
    }

    fn close(&self) -> BoxFuture<()> {
        end(&self.inner, self.index);
        Box::pin(std::future::ready(()))
    }
}

impl Drop for ModelBackplane {
    fn drop(&mut self) {
        end(&self.inner, self.index);
    }
}

fn end(inner: &Mutex<Inner>, index: usize) {
    let mut inner = inner.lock();
    let crashed = inner.links.get(index).is_none_or(|link| link.ended);
    if crashed {
        return;
    }
    inner.break_link(index, "the backplane was closed");
    if let Some(link) = inner.links.get_mut(index) {
        link.close();
        link.notify.notify_one();
    }
}

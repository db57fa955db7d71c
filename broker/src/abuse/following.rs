//! Keeps what is known of bans as the records are.

use std::str::FromStr;
use std::sync::{Arc, Weak};

use dunlin_sync::StoreError;
use dunlin_sync::records::{
    RECORDS_AT_ONCE, RecordChange, RecordKey, RecordListener, Records, Table,
};
use tokio::sync::mpsc;

use super::bans::{ADDED, AGAIN, Ban, Bans, REMOVED};
use super::target::Target;

/// Keys that may wait to be read; when more are announced, all bans are read.
const WAITING: usize = 1_024;

/// What is to be read.
enum Task {
    One(RecordKey),
    All,
}

/// Told of changes by the store, on its thread.
struct Listener {
    bans: Weak<Bans>,
    tasks: mpsc::Sender<Task>,
    missed: Arc<std::sync::atomic::AtomicBool>,
}

impl RecordListener for Listener {
    fn changed(&self, change: &RecordChange) {
        let task = match change {
            RecordChange::Changed { key, hint, .. } if key.table == Table::Ban => {
                if let Some(bans) = self.bans.upgrade() {
                    match *hint {
                        ADDED => bans.announced(&key.key),
                        REMOVED => {
                            if let Ok(target) = Target::from_str(&key.key) {
                                bans.forget(&target);
                            }
                        }
                        _ => {}
                    }
                }
                Task::One(key.clone())
            }
            RecordChange::Changed { .. } => return,
            RecordChange::Missed { .. } => Task::All,
        };
        if self.tasks.try_send(task).is_err() {
            self.missed
                .store(true, std::sync::atomic::Ordering::Release);
        }
    }
}

/// Reads all bans, then follows them.
pub(super) async fn start(bans: &Arc<Bans>, records: Arc<dyn Records>) {
    let (tasks, mut wanted) = mpsc::channel(WAITING);
    let missed = Arc::<std::sync::atomic::AtomicBool>::default();
    let listener: Arc<dyn RecordListener> = Arc::new(Listener {
        bans: Arc::downgrade(bans),
        tasks,
        missed: Arc::clone(&missed),
    });
    records.listen(&listener);
    let read = read_all(bans, &*records).await;
    if let Err(error) = &read {
        tracing::warn!(%error, "the bans cannot be read yet: nobody is kept out by them");
    }
    let mut all = read.is_err();
    let bans = Arc::downgrade(bans);
    tokio::spawn(async move {
        // Lives as long as somebody follows.
        let _listener = listener;
        loop {
            if all {
                tokio::time::sleep(AGAIN).await;
            } else {
                match wanted.recv().await {
                    None => return,
                    Some(Task::All) => all = true,
                    Some(Task::One(key)) => {
                        let Some(bans) = bans.upgrade() else { return };
                        all = read_one(&bans, &*records, key).await.is_err();
                    }
                }
            }
            all |= missed.swap(false, std::sync::atomic::Ordering::AcqRel);
            if all {
                let Some(bans) = bans.upgrade() else { return };
                all = read_all(&bans, &*records).await.is_err();
            }
        }
    });
}

async fn read_all(bans: &Bans, records: &dyn Records) -> Result<(), StoreError> {
    let mut all = Vec::new();
    let mut from = None;
    loop {
        let page = records.scan(Table::Ban, from, RECORDS_AT_ONCE).await?;
        for (key, record) in &page.records {
            match Target::from_str(key) {
                Ok(target) => all.push((target, Ban::of(record))),
                Err(error) => tracing::warn!(key = &**key, error, "a ban cannot be understood"),
            }
        }
        from = page.next;
        if from.is_none() {
            break;
        }
    }
    bans.replace(all);
    Ok(())
}

async fn read_one(bans: &Bans, records: &dyn Records, key: RecordKey) -> Result<(), StoreError> {
    let Ok(target) = Target::from_str(&key.key) else {
        return Ok(());
    };
    match records.get(vec![key]).await?.into_iter().next().flatten() {
        Some(record) => bans.keep(target, Ban::of(&record)),
        None => bans.forget(&target),
    }
    Ok(())
}

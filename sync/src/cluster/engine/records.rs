//! Reading records, and handing changes of them in.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::shared::Shared;
use crate::cluster::{BUCKETS, Backplane, BackplaneError, Bucket, Reply, Request};
use crate::records::{
    Cursor, Got, Put, RECORD_BYTES_AT_ONCE, RECORDS_AT_ONCE, Record, RecordChanges, RecordKey,
    RecordListener, RecordPut, Records, ScanPage, Table, check_keys, put,
};
use crate::{BoxFuture, StoreError};

/// Keys that are asked for in one request.
const KEYS_AT_ONCE: usize = 512;
/// Buckets whose keys are asked for at once, when there are few in each.
const BUCKETS_AT_ONCE: u16 = 64;
/// Records of a scan that are read at once, at first and at most. With values of the greatest length the first number is 64 MiB.
const READ_AT_ONCE: (usize, usize) = (64, 1024);

pub(super) struct Handle {
    pub(super) shared: Arc<Shared>,
    pub(super) backplane: Arc<dyn Backplane>,
}

impl Records for Handle {
    fn get(&self, keys: Vec<RecordKey>) -> Got {
        let checked = check_keys(&keys);
        self.reading(move |backplane| {
            let keys = keys.clone();
            let checked = checked.clone();
            async move {
                checked?;
                get(&*backplane, &keys).await
            }
        })
    }

    fn put(&self, puts: Vec<RecordPut>) -> Put {
        put(|batch| self.shared.submit(batch), puts, false)
    }

    fn put_everywhere(&self, puts: Vec<RecordPut>) -> Put {
        put(|batch| self.shared.submit(batch), puts, true)
    }

    fn scan(
        &self,
        table: Table,
        from: Option<Cursor>,
        limit: usize,
    ) -> BoxFuture<Result<ScanPage, StoreError>> {
        let limit = limit.clamp(1, RECORDS_AT_ONCE);
        self.reading(move |backplane| {
            let from = from.clone();
            async move { scan(&*backplane, table, from, limit).await }
        })
    }

    fn listen(&self, listener: &Arc<dyn RecordListener>) {
        self.shared.listeners.add(listener);
    }

    fn subscribe(&self) -> RecordChanges {
        self.shared.listeners.subscribe()
    }
}

impl Handle {
    /// Reads, and reads again if Redis has failed over meanwhile: what that has lost is to be written back before.
    fn reading<T, F>(
        &self,
        read: impl Fn(Arc<dyn Backplane>) -> F + Send + 'static,
    ) -> BoxFuture<Result<T, StoreError>>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        let backplane = Arc::clone(&self.backplane);
        let shared = Arc::clone(&self.shared);
        Box::pin(async move {
            loop {
                let failovers = backplane.failovers();
                shared.until_made_good(failovers).await;
                let got = read(Arc::clone(&backplane)).await;
                if backplane.failovers() == failovers || shared.has_ended() {
                    return got;
                }
            }
        })
    }
}

fn failed(error: &BackplaneError) -> StoreError {
    StoreError::ReadFailed {
        reason: error.to_string(),
    }
}

fn nonsense(reply: &Reply) -> StoreError {
    StoreError::ReadFailed {
        reason: format!("asked for records, Redis answered {reply:.60?}"),
    }
}

async fn get(
    backplane: &dyn Backplane,
    keys: &[RecordKey],
) -> Result<Vec<Option<Record>>, StoreError> {
    let mut buckets: BTreeMap<Bucket, Vec<usize>> = BTreeMap::new();
    for (at, key) in keys.iter().enumerate() {
        buckets.entry(key.bucket()).or_default().push(at);
    }
    let mut requests = Vec::new();
    let mut asked: Vec<Vec<usize>> = Vec::new();
    for (bucket, places) in buckets {
        for chunk in places.chunks(KEYS_AT_ONCE) {
            let keys = chunk.iter().filter_map(|at| keys.get(*at));
            requests.push(Request::GetRecords {
                bucket,
                keys: keys.cloned().collect(),
            });
            asked.push(chunk.to_vec());
        }
    }
    let mut found = vec![None; keys.len()];
    for (places, answer) in asked.iter().zip(backplane.execute(requests).await) {
        let records = match answer.map_err(|error| failed(&error))? {
            Reply::Records(records) => records,
            other => return Err(nonsense(&other)),
        };
        for (at, record) in places.iter().zip(records) {
            if let Some(place) = found.get_mut(*at) {
                *place = record;
            }
        }
    }
    Ok(found)
}

/// Bucket by bucket, each in the order of its keys.
async fn scan(
    backplane: &dyn Backplane,
    table: Table,
    from: Option<Cursor>,
    limit: usize,
) -> Result<ScanPage, StoreError> {
    let mut page = ScanPage::default();
    let (mut bucket, mut after) = from.map_or((0, None), |from| (from.bucket, from.after));
    let mut bytes = 0;
    let mut at_once = READ_AT_ONCE.0;
    let mut group = 1;
    while bucket < BUCKETS {
        let last = bucket.saturating_add(group).min(BUCKETS);
        let lists = keys(backplane, table, bucket..last).await?;
        let mut wanted: Vec<(u16, Arc<str>)> = Vec::new();
        for (number, mut list) in (bucket..last).zip(lists) {
            if let Some(after) = after.take() {
                list.retain(|key| **key > *after);
            }
            list.sort_unstable();
            wanted.extend(list.into_iter().map(|key| (number, key)));
        }
        let mut rest = wanted.as_slice();
        while !rest.is_empty() {
            let room = limit.saturating_sub(page.records.len());
            let (now, later) = rest.split_at(rest.len().min(room).min(at_once));
            rest = later;
            let asked: Vec<_> = now
                .iter()
                .map(|(_, key)| RecordKey::new(table, Arc::clone(key)))
                .collect();
            for (key, record) in asked.iter().zip(get(backplane, &asked).await?) {
                if let Some(record) = record {
                    bytes += record.value.len() + key.key.len();
                    page.records.push((Arc::clone(&key.key), record));
                }
            }
            if page.records.len() >= limit || bytes >= RECORD_BYTES_AT_ONCE {
                page.next = now.last().map(|(bucket, key)| Cursor {
                    bucket: *bucket,
                    after: Some(Arc::clone(key)),
                });
                return Ok(page);
            }
            let each = bytes / page.records.len().max(1) + 1;
            at_once = (RECORD_BYTES_AT_ONCE / 2 / each).clamp(READ_AT_ONCE.0, READ_AT_ONCE.1);
        }
        bucket = last;
        group = (group * 2).min(BUCKETS_AT_ONCE);
    }
    Ok(page)
}

async fn keys(
    backplane: &dyn Backplane,
    table: Table,
    buckets: std::ops::Range<u16>,
) -> Result<Vec<Vec<Arc<str>>>, StoreError> {
    let requests = buckets.map(|bucket| Request::RecordKeys {
        bucket: Bucket(bucket),
        table,
    });
    let answers = backplane.execute(requests.collect()).await;
    let lists = answers
        .into_iter()
        .map(|answer| match answer.map_err(|error| failed(&error))? {
            Reply::RecordKeys(keys) => Ok(keys),
            other => Err(nonsense(&other)),
        });
    lists.collect()
}

//! Whether a change may be made, for stores that decide it in this process.

use std::time::{SystemTime, UNIX_EPOCH};

use super::{Expect, PutOutcome, Record, RecordPut};

/// Unix time in milliseconds.
pub(crate) fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
}

/// Whether it is still there.
pub(crate) fn lives(expires_at_ms: Option<u64>, now_ms: u64) -> bool {
    expires_at_ms.is_none_or(|end| end > now_ms)
}

/// What is to be done.
pub(crate) enum Judged {
    Set(Record),
    Remove,
    /// Nothing.
    Answer(PutOutcome),
}

/// `found` is what is there, and `revision` what a change would have.
pub(crate) fn judge(put: &RecordPut, found: Option<Record>, revision: u64, now_ms: u64) -> Judged {
    let found = found.filter(|record| lives(record.expires_at_ms, now_ms));
    let expected = match put.expect {
        Expect::Any => true,
        Expect::Absent => found.is_none(),
        Expect::Revision(revision) => found.as_ref().is_some_and(|it| it.revision == revision),
    };
    match (&put.value, found) {
        (_, found) if !expected => Judged::Answer(PutOutcome::Conflict { found }),
        (Some(value), _) => Judged::Set(Record {
            revision,
            value: value.clone(),
            expires_at_ms: put.expires_at_ms,
        }),
        (None, Some(_)) => Judged::Remove,
        (None, None) => Judged::Answer(PutOutcome::Done { revision: 0 }),
    }
}

//! The journal: an append-only file of commits, made durable before anything is acknowledged.
//!
//! It is cut into numbered segments. A segment is sealed when it is old or large enough, and goes away when its
//! rows are in Parquet files; the next one is durable before that. So there is always one, and a number is never
//! used twice. A segment begins with a snapshot of the ledger, so that the newest one is enough to go on from.

mod frame;
mod segment;

pub(super) use segment::{AppendError, Segment, SegmentWriter, Snapshot};

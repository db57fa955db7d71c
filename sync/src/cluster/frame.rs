//! Frames: what travels on the lanes.
//!
//! All numbers are little-endian. Every frame begins with a head of 12 bytes:
//!
//! | bytes | what |
//! | --- | --- |
//! | 2 | `DN` |
//! | 1 | version of the format, 1 |
//! | 1 | kind, below |
//! | 8 | the replica that caused it |
//!
//! | kind | goes over | behind the head |
//! | --- | --- | --- |
//! | 1 table | `sync` | bucket (2), version of the bucket after the change (8), one change |
//! | 2 routes | `sync` | version of the origin's routes after the change (8), changes |
//! | 3 messages | `sync`, a replica's channel, an inbox | sequence number on this lane (8), entries |
//! | 4 control | `sync`, a replica's channel | sequence number on this lane (8), entries |
//!
//! Kinds 1 and 2 are written by Redis itself, in the atomic step that makes the change. A change of a
//! table is a tag and the rest of the frame:
//!
//! | tag | change | rest |
//! | --- | --- | --- |
//! | 1 | retained message set | encoded message |
//! | 2 | retained message removed | topic |
//! | 3 | session's record set | session (8), encoded record |
//! | 4 | session deleted | session (8) |
//! | 5 | session's owner | session (8), replica (8) |
//!
//! A change of routes: flags (1), members (2), length of the filter (2), filter.

//! The BigQuery sink against the emulator: REST, appends with offsets, and the SQL that analysts would ask.

#![allow(clippy::unwrap_used, reason = "a test")]

mod emulator;
mod letters;
mod sql;
mod tables;

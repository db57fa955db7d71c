//! The BigQuery sink against a strict server with faults: every message is stored once, whatever happens.

mod catalog;
mod fake;
mod runs;

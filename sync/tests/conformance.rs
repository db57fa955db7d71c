//! Every store runs the same suite.
#![allow(
    clippy::unwrap_used,
    reason = "a test that meets the unexpected has to stop"
)]

use std::sync::Arc;
use std::time::Duration;

use dunlin_sync::testing::Place;
use dunlin_sync::{Durability, EmbeddedOptions, EmbeddedStore, MemoryStore, Store};

struct Embedded {
    directory: tempfile::TempDir,
    options: EmbeddedOptions,
}

impl Embedded {
    fn new() -> Self {
        Self::with(EmbeddedOptions::default())
    }

    fn with(options: EmbeddedOptions) -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            options,
        }
    }

    fn lasting(durability: Durability) -> Self {
        Self::with(EmbeddedOptions {
            durability,
            ..EmbeddedOptions::default()
        })
    }

    /// Tables so small that every part of the engine is at work.
    fn busy() -> Self {
        Self::with(EmbeddedOptions {
            write_buffer_bytes: 16 << 10,
            ..EmbeddedOptions::default()
        })
    }
}

impl Place for Embedded {
    fn open(&self) -> Arc<dyn Store> {
        let store = EmbeddedStore::open(self.directory.path().join("store"), &self.options);
        Arc::new(store.unwrap())
    }
}

fn memory() -> Arc<dyn Store> {
    Arc::new(MemoryStore::new().unwrap())
}

dunlin_sync::store_conformance!(memory_store => memory);
dunlin_sync::store_conformance!(embedded => Embedded::new());
dunlin_sync::store_reopen_conformance!(embedded_reopened => Embedded::new());
dunlin_sync::store_reopen_conformance!(embedded_without_flush_reopened => Embedded::lasting(Durability::Os));
dunlin_sync::store_conformance!(embedded_with_interval => Embedded::lasting(Durability::Interval(Duration::from_millis(5))));
dunlin_sync::store_reopen_conformance!(embedded_with_interval_reopened => Embedded::lasting(Durability::Interval(Duration::from_millis(5))));
dunlin_sync::store_conformance!(embedded_with_small_tables => Embedded::busy());
dunlin_sync::store_reopen_conformance!(embedded_with_small_tables_reopened => Embedded::busy());
dunlin_sync::records_conformance!(memory_records => memory);
dunlin_sync::records_conformance!(embedded_records => Embedded::new());
dunlin_sync::records_conformance!(embedded_records_in_small_tables => Embedded::busy());
dunlin_sync::records_reopen_conformance!(embedded_records_reopened => Embedded::new());
dunlin_sync::records_sweep_conformance!(memory_records_end => memory);
dunlin_sync::records_sweep_conformance!(embedded_records_end => Embedded::new());

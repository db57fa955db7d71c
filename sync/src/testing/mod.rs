//! Tests for every store.

//! What the tests of this folder share.

use tempfile::TempDir;

use super::layout::{self, Layout};
use crate::row::{Delivery, Row, UserProperties, fingerprint};

/// A moment on 2026-11-21, in microseconds.
pub(crate) const NOON: i64 = 1_795_262_400_000_000;
pub(crate) const DAY: i64 = 86_400_000_000;

/// An empty warehouse that goes away with the first value.
pub(crate) fn scratch() -> (TempDir, Layout) {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::new(dir.path());
    for dir in [layout.messages(), layout.journal(), layout.tmp()] {
        layout::create_dir(&dir).unwrap();
    }
    (dir, layout)
}

pub(crate) fn row<'a>(number: u64, topic: &'a str, payload: &'a [u8]) -> Row<'a> {
    Row {
        received_at: NOON + number as i64,
        number,
        delivery: Delivery::AtLeastOnce(1),
        fingerprint: fingerprint(topic, payload),
        retain: false,
        topic,
        payload,
        client_id: None,
        tenant: None,
        device_id: None,
        content_type: None,
        response_topic: None,
        origin: None,
        correlation_data: None,
        user_properties: UserProperties::default(),
    }
}

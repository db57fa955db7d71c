//! What is looked at before a serial number is claimed: the lists, and whether a request was made before.

use dunlin_sync::records::{Expect, PutOutcome, RecordKey, RecordPut, Table};
use ring::digest::{SHA256, digest};

use super::{Provisioner, Refusal, Request};
use crate::registry::credential::hex;

/// How long a nonce is remembered, in seconds.
const NONCE_S: u64 = 24 * 3_600;
/// Bytes of a nonce.
const NONCE: std::ops::RangeInclusive<usize> = 16..=128;

impl Provisioner {
    pub(super) async fn look_at_lists(&self, serial: &str) -> Result<(), Refusal> {
        let keys = [Table::Block, Table::Allow].map(|table| RecordKey::new(table, serial));
        let found = self.registry.records().get(keys.into()).await?;
        match &found[..] {
            [Some(_), _] => Err(Refusal::Forbidden("this serial number is blocked")),
            [None, None] if self.listed_only => Err(Refusal::Forbidden(
                "this serial number is not on the list of those that may ask",
            )),
            _ => Ok(()),
        }
    }

    pub(super) async fn use_nonce(&self, request: &Request, now: u64) -> Result<(), Refusal> {
        if !NONCE.contains(&request.nonce.len()) || request.nonce.contains(char::is_control) {
            return Err(Refusal::Invalid {
                field: "nonce",
                text: format!(
                    "must have {} to {} bytes, taken at random for each request",
                    NONCE.start(),
                    NONCE.end()
                ),
            });
        }
        let digest = hex(digest(
            &SHA256,
            format!("{}\n{}", request.serial, request.nonce).as_bytes(),
        )
        .as_ref());
        let put = RecordPut::set(
            RecordKey::new(Table::Nonce, format!("provisioning:{digest}")),
            &b""[..],
        )
        .expecting(Expect::Absent)
        .until(Some((now + NONCE_S) * 1_000));
        match self.registry.records().put(vec![put]).await?.first() {
            Some(PutOutcome::Done { .. }) => Ok(()),
            _ => Err(Refusal::Replayed),
        }
    }
}

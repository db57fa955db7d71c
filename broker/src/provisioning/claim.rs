//! The claim of a serial number: who has it, and the certificate that was given to it.

use dunlin_sync::records::{Expect, PutOutcome, Record, RecordKey, RecordPut, Table};
use serde::{Deserialize, Serialize};

use super::authority::Csr;
use super::hook::Said;
use super::{Provisioner, Refusal};
use crate::admin::now;
use crate::registry::{DeviceKey, Shown};

/// Times that the claim of a serial number is looked at again when others change it meanwhile.
const TRIES: usize = 8;

/// The claim of a serial number, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Claim {
    pub(super) device: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) tenant: Option<String>,
    /// SHA-256 of the public key.
    pub(super) key: String,
    /// Unix seconds.
    pub(super) at: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) certificate: Option<String>,
    /// When the certificate ends, in Unix seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) until: Option<u64>,
}

impl Provisioner {
    /// Claims the serial number for a key; also says whether nobody had.
    pub(super) async fn claim(
        &self,
        key: &DeviceKey,
        fingerprint: &str,
        now: u64,
    ) -> Result<(Claim, u64, bool), Refusal> {
        let claim = Claim {
            device: key.id().to_owned(),
            tenant: key.tenant().map(str::to_owned),
            key: fingerprint.to_owned(),
            at: now,
            certificate: None,
            until: None,
        };
        let put = RecordPut::set(serial_key(key), encode(&claim)).expecting(Expect::Absent);
        match self.registry.records().put(vec![put]).await?.pop() {
            Some(PutOutcome::Done { revision }) => Ok((claim, revision, true)),
            Some(PutOutcome::Conflict { found: Some(found) }) => {
                let held = decode(&found)?;
                if held.key == claim.key && held.tenant == claim.tenant {
                    Ok((held, found.revision, false))
                } else {
                    Err(Refusal::Taken)
                }
            }
            _ => Err(Refusal::Unavailable(
                "the serial number is being changed: try again".to_owned(),
            )),
        }
    }

    /// Puts a certificate into a claim. When another replica was faster, it is that one's.
    pub(super) async fn certify(
        &self,
        key: &DeviceKey,
        mut claim: Claim,
        mut revision: u64,
        csr: &Csr,
        said: Option<&Said>,
    ) -> Result<(Claim, u64), Refusal> {
        let (pem, until) = match said.and_then(|said| said.certificate.as_ref()) {
            Some(pem) => {
                let (_, until) = Shown::fingerprint_from_pem(pem).map_err(|error| {
                    Refusal::Unavailable(format!("the certificate of the validation hook: {error}"))
                })?;
                (pem.clone(), until)
            }
            None => {
                let authority = self.authority.as_ref();
                let authority = authority.ok_or_else(|| Refusal::Invalid {
                    field: "csr",
                    text: "there is no authority here that signs: ask with public_key".to_owned(),
                })?;
                let issued = authority
                    .sign(csr, key.id(), key.tenant())
                    .map_err(Refusal::Unavailable)?;
                (issued.pem, issued.not_after)
            }
        };
        for _ in 0..TRIES {
            let with = Claim {
                certificate: Some(pem.clone()),
                until: Some(until),
                ..claim.clone()
            };
            let put = RecordPut::set(serial_key(key), encode(&with))
                .expecting(Expect::Revision(revision));
            match self.registry.records().put(vec![put]).await?.pop() {
                Some(PutOutcome::Done { revision }) => return Ok((with, revision)),
                Some(PutOutcome::Conflict { found: Some(found) }) => {
                    let held = decode(&found)?;
                    if held.key != claim.key || held.tenant != claim.tenant {
                        return Err(Refusal::Taken);
                    }
                    if held.certificate.is_some() && held.until.is_some_and(|until| until > now()) {
                        return Ok((held, found.revision));
                    }
                    (claim, revision) = (held, found.revision);
                }
                // An administrator has removed it: who asks again begins anew.
                _ => break,
            }
        }
        Err(Refusal::Unavailable(
            "the serial number is being changed: try again".to_owned(),
        ))
    }
}

fn serial_key(key: &DeviceKey) -> RecordKey {
    RecordKey::new(Table::Serial, key.id())
}

fn encode(claim: &Claim) -> Vec<u8> {
    // Plain values: there is nothing that could fail.
    serde_json::to_vec(claim).unwrap_or_default()
}

fn decode(record: &Record) -> Result<Claim, Refusal> {
    serde_json::from_slice(&record.value).map_err(|error| {
        Refusal::Unavailable(format!(
            "the record of the serial number cannot be used: {error}"
        ))
    })
}

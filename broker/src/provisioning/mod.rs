//! Provisioning: a device that has nothing but a bootstrap credential asks for an identity of its own.
//!
//! One serial number, one identity: it is claimed in the table `serial` by comparison, so of two that ask at once, on whichever replicas,
//! one gets it. Who asks again with the same key gets the same identity; another key is refused until an
//! administrator has removed the serial number from the list. Each step can be repeated after a crash: the claim comes first, then
//! the certificate, which is kept in the claim, then the device.

mod authority;
mod http;
mod rate;
mod serve;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use base64ct::{Base64, Encoding};
use dunlin_sync::records::{Expect, PutOutcome, Record, RecordKey, RecordPut, Table};
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use crate::admin::now;
use crate::audit::{Audit, Event, Kind};
use crate::auth::jwt::{Checks, Key, Token};
use crate::config::ProvisioningConfig;
use crate::http::HttpClient;
use crate::registry::credential::hex;
use crate::registry::{
    Credential, Device, DeviceKey, Imported, Registry, RegistryError, Shown, State,
};
use authority::{Authority, Csr};
use rate::Rate;
pub(crate) use serve::serve;

/// Bytes of the answer of a hook.
const ANSWER_MAX: usize = 64 * 1024;
/// How long a nonce is remembered, in seconds.
const NONCE_S: u64 = 24 * 3_600;
/// Bytes of a nonce.
const NONCE: std::ops::RangeInclusive<usize> = 16..=128;
/// Times that the claim of a serial number is looked at again when others change it meanwhile.
const TRIES: usize = 8;
/// Longest life of a bootstrap token, in seconds: a production run.
const TOKEN_LIFE_MAX: u64 = 400 * 86_400;

/// What a device asks for.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Request {
    /// Its serial number, which becomes its id.
    pub(crate) serial: String,
    /// Used once: a request that somebody has recorded is worth nothing.
    pub(crate) nonce: String,
    /// PEM: a request for a certificate.
    #[serde(default)]
    pub(crate) csr: Option<String>,
    /// PEM: the key that its tokens will be verified by.
    #[serde(default)]
    pub(crate) public_key: Option<String>,
    /// What it says of itself, for the hook; what the hook says of it is kept.
    #[serde(default)]
    pub(crate) attributes: BTreeMap<String, String>,
}

/// The identity that a device is given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Identity {
    pub(crate) device: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tenant: Option<String>,
    /// PEM, for a request for a certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) certificate: Option<String>,
    /// PEM: who has signed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) chain: Option<String>,
}

/// By what somebody may ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bootstrap {
    /// Its name: whose token it is, or the SHA-256 of the certificate.
    pub(crate) name: String,
    pub(crate) tenant: Option<String>,
    /// It is for this serial number alone.
    pub(crate) serial: Option<String>,
}

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("{field}: {text}")]
    Invalid { field: &'static str, text: String },
    #[error("{0}")]
    Forbidden(&'static str),
    /// Another key has it.
    #[error(
        "this serial number has an identity with another key: an administrator can remove it from the list \"serials\""
    )]
    Taken,
    #[error("this nonce has been used: take another one for each request")]
    Replayed,
    #[error("too many requests: try again in a minute")]
    TooMany,
    /// Something that is needed does not answer.
    #[error("{0}")]
    Unavailable(String),
}

impl From<dunlin_sync::StoreError> for Refusal {
    fn from(error: dunlin_sync::StoreError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

impl From<RegistryError> for Refusal {
    fn from(error: RegistryError) -> Self {
        match error {
            RegistryError::Taken { .. } => Self::Forbidden("the certificate is another device's"),
            RegistryError::Invalid(invalid) => Self::Invalid {
                field: "device",
                text: invalid.to_string(),
            },
            error => Self::Unavailable(error.to_string()),
        }
    }
}

/// The claim of a serial number, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Claim {
    device: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tenant: Option<String>,
    /// SHA-256 of the public key.
    key: String,
    /// Unix seconds.
    at: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    certificate: Option<String>,
    /// When the certificate ends, in Unix seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until: Option<u64>,
}

/// What a validation hook says.
#[derive(Debug, Deserialize)]
struct Said {
    result: String,
    #[serde(default)]
    attributes: BTreeMap<String, String>,
    /// PEM: of an authority that the hook asks in place of ours.
    #[serde(default)]
    certificate: Option<String>,
}

/// What a device asks with.
enum Material {
    Csr(Box<Csr>),
    Key(Shown),
}

/// Gives identities.
#[derive(Debug)]
pub(crate) struct Provisioner {
    registry: Arc<Registry>,
    audit: Arc<Audit>,
    keys: Vec<Key>,
    audience: String,
    listed_only: bool,
    authority: Option<Authority>,
    hook: Option<HttpClient>,
    by_credential: Rate,
    by_address: Rate,
}

impl Provisioner {
    /// Reads the files that the configuration names.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(crate) fn new(
        config: &ProvisioningConfig,
        registry: Arc<Registry>,
        audit: Arc<Audit>,
    ) -> Result<Self, String> {
        let mut keys = Vec::new();
        for path in &config.keys {
            let shown = path.display();
            let pem =
                std::fs::read(path).map_err(|error| format!("cannot read {shown}: {error}"))?;
            keys.extend(Key::from_pem(&pem).map_err(|error| format!("{shown}: {error}"))?);
        }
        let authority = match (&config.ca_certificate, &config.ca_key) {
            (Some(certificate), Some(key)) => {
                Some(Authority::load(certificate, key, config.validity)?)
            }
            _ => None,
        };
        let hook = config.hook_url.as_ref().map(|url| {
            HttpClient::new(
                url,
                config.hook_ca_file.as_deref(),
                config.hook_timeout,
                ANSWER_MAX,
            )
        });
        Ok(Self {
            registry,
            audit,
            keys,
            audience: config.audience.clone(),
            listed_only: config.listed_only,
            authority,
            hook: hook.transpose().map_err(|error| error.to_string())?,
            by_credential: Rate::new(config.per_minute),
            by_address: Rate::new(config.per_minute),
        })
    }

    /// Whose bootstrap token this is; `None`: it is none that is good.
    pub(crate) fn bootstrap(&self, token: &[u8]) -> Option<Bootstrap> {
        let token = Token::parse(token)?;
        let claims = self.keys.iter().find_map(|key| token.verified_by(key))?;
        let checks = Checks {
            issuers: Vec::new(),
            audiences: vec![self.audience.clone()],
            leeway: 600,
            max_lifetime: TOKEN_LIFE_MAX,
            endless: false,
        };
        checks.check(&claims, now()).ok()?;
        Some(Bootstrap {
            name: claims.text("sub").unwrap_or("token").to_owned(),
            tenant: claims.text("tenant").map(str::to_owned),
            serial: claims.text("serial").map(str::to_owned),
        })
    }

    /// Gives an identity, or says why not; both are in the audit log.
    pub(crate) async fn ask(
        &self,
        who: &Bootstrap,
        peer: SocketAddr,
        request: &Request,
    ) -> Result<Identity, Refusal> {
        let done = self.give(who, peer, request).await;
        let event = Event::new(Kind::Provisioning)
            .peer(peer)
            .by(&who.name)
            .target(&request.serial);
        self.audit.record(match &done {
            Ok((_, action)) => event.action(action),
            Err(refusal) => event
                .action("provisioning.refused")
                .why(&refusal.to_string()),
        });
        done.map(|(identity, _)| identity)
    }

    async fn give(
        &self,
        who: &Bootstrap,
        peer: SocketAddr,
        request: &Request,
    ) -> Result<(Identity, &'static str), Refusal> {
        let now = now();
        if !self.by_credential.takes(&who.name, now)
            || !self.by_address.takes(&peer.ip().to_string(), now)
        {
            return Err(Refusal::TooMany);
        }
        let key = DeviceKey::new(who.tenant.as_deref(), &request.serial).map_err(|invalid| {
            Refusal::Invalid {
                field: "serial",
                text: invalid.text,
            }
        })?;
        if who
            .serial
            .as_ref()
            .is_some_and(|only| *only != request.serial)
        {
            return Err(Refusal::Forbidden(
                "the bootstrap credential is for another serial number",
            ));
        }
        let (material, fingerprint) = read(request)?;
        self.look_at_lists(&request.serial).await?;
        self.use_nonce(request, now).await?;
        let said = self.ask_hook(who, request, peer).await?;
        let (mut claim, mut revision, new) = self.claim(&key, &fingerprint, now).await?;
        let credential = match material {
            Material::Key(shown) => Credential {
                id: "provisioned".to_owned(),
                shown,
                not_before: None,
                expires_at: None,
            },
            Material::Csr(csr) => {
                let ended = claim.until.is_none_or(|until| until <= now);
                if claim.certificate.is_none() || ended {
                    (claim, revision) = self
                        .certify(&key, claim, revision, &csr, said.as_ref())
                        .await?;
                }
                let pem = claim.certificate.as_deref().unwrap_or_default();
                let (shown, until) =
                    Shown::fingerprint_from_pem(pem).map_err(Refusal::Unavailable)?;
                Credential {
                    id: "provisioned".to_owned(),
                    shown,
                    not_before: None,
                    expires_at: Some(until),
                }
            }
        };
        tracing::debug!(serial = request.serial, revision, "an identity is given");
        self.register(
            &key,
            credential,
            said.map(|said| said.attributes).unwrap_or_default(),
            now,
        )
        .await?;
        let chain = self
            .authority
            .as_ref()
            .map(|authority| authority.chain.clone());
        let identity = Identity {
            device: claim.device,
            tenant: claim.tenant,
            chain: chain.filter(|_| claim.certificate.is_some()),
            certificate: claim.certificate,
        };
        Ok((
            identity,
            if new {
                "provisioning.given"
            } else {
                "provisioning.repeated"
            },
        ))
    }

    async fn look_at_lists(&self, serial: &str) -> Result<(), Refusal> {
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

    async fn use_nonce(&self, request: &Request, now: u64) -> Result<(), Refusal> {
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

    async fn ask_hook(
        &self,
        who: &Bootstrap,
        request: &Request,
        peer: SocketAddr,
    ) -> Result<Option<Said>, Refusal> {
        let Some(hook) = &self.hook else {
            return Ok(None);
        };
        let question = serde_json::json!({
            "serial": request.serial,
            "tenant": who.tenant,
            "bootstrap": who.name,
            "peer": peer.ip().to_string(),
            "csr": request.csr,
            "public_key": request.public_key,
            "attributes": request.attributes,
        });
        let kind = hyper::header::HeaderValue::from_static("application/json");
        let headers = [(hyper::header::CONTENT_TYPE, kind)];
        let answer = hook
            .send(
                hyper::Method::POST,
                "",
                &headers,
                question.to_string().into(),
            )
            .await;
        let answer = answer
            .map_err(|error| Refusal::Unavailable(format!("the validation hook: {error}")))?;
        if !answer.status.is_success() {
            return Err(Refusal::Unavailable(format!(
                "the validation hook says {}",
                answer.status
            )));
        }
        let said: Said = serde_json::from_slice(&answer.body).map_err(|error| {
            Refusal::Unavailable(format!(
                "the validation hook's answer cannot be used: {error}"
            ))
        })?;
        if said.result == "allow" {
            Ok(Some(said))
        } else {
            Err(Refusal::Forbidden(
                "the validation hook refuses this serial number",
            ))
        }
    }

    /// Claims the serial number for a key; also says whether nobody had.
    async fn claim(
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
    async fn certify(
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

    /// Has the registry know the device by its credential.
    async fn register(
        &self,
        key: &DeviceKey,
        credential: Credential,
        attributes: BTreeMap<String, String>,
        now: u64,
    ) -> Result<(), Refusal> {
        let mut device = Device::new(now);
        device.serial = Some(key.id().to_owned());
        device.credentials.push(credential.clone());
        device.attributes = attributes.clone();
        match self.registry.create(key, device).await {
            Ok((_, Imported::Created | Imported::Unchanged | Imported::Replaced)) => return Ok(()),
            Err(RegistryError::Exists { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let add = |device: &mut Device| {
            if device.state == State::Blocked {
                return Ok(false);
            }
            device
                .credentials
                .retain(|other| other.id != credential.id || other.shown == credential.shown);
            if !device
                .credentials
                .iter()
                .any(|other| other.shown == credential.shown)
            {
                device.credentials.push(credential.clone());
            }
            device.serial = Some(key.id().to_owned());
            device.attributes.extend(attributes.clone());
            Ok(true)
        };
        let (_, active) = self.registry.change(key, None, now, add).await?;
        if active {
            Ok(())
        } else {
            Err(Refusal::Forbidden("the device is blocked"))
        }
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

/// The key that a device asks with, and its SHA-256.
fn read(request: &Request) -> Result<(Material, String), Refusal> {
    let invalid = |field: &'static str| move |text| Refusal::Invalid { field, text };
    let (material, der) = match (&request.csr, &request.public_key) {
        (Some(pem), None) => {
            let csr = Csr::read(pem).map_err(invalid("csr"))?;
            let der = csr.key();
            (Material::Csr(Box::new(csr)), der)
        }
        (None, Some(pem)) => {
            let shown = Shown::key_from_pem(pem).map_err(invalid("public_key"))?;
            let Shown::Key(text) = &shown else {
                return Err(invalid("public_key")("no key".to_owned()));
            };
            let der = Base64::decode_vec(text).unwrap_or_default();
            (Material::Key(shown), der)
        }
        _ => {
            return Err(invalid("csr")(
                "must have exactly one of csr and public_key".to_owned(),
            ));
        }
    };
    let fingerprint = hex(digest(&SHA256, &der).as_ref());
    Ok((material, fingerprint))
}

//! What a device asks with, what it is given, and why not.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use base64ct::{Base64, Encoding};
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use super::authority::Csr;
use crate::registry::credential::hex;
use crate::registry::{RegistryError, Shown};

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

/// From where somebody asks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Caller<'a> {
    pub(crate) peer: SocketAddr,
    /// The listener and the client id; `None`: over HTTPS.
    pub(crate) client: Option<(&'a str, &'a str)>,
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

/// What a device asks with.
pub(super) enum Material {
    Csr(Box<Csr>),
    Key(Shown),
}

/// The key that a device asks with, and its SHA-256.
pub(super) fn read(request: &Request) -> Result<(Material, String), Refusal> {
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

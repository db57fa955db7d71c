//! Devices as they are asked for and shown.

use std::collections::BTreeMap;

use base64ct::{Base64, Encoding};
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use super::status::{ConfigJson, SeenJson};
use crate::registry::{Credential, Device, DeviceKey, Found, Invalid, PolicyRule, Shown, State};

/// A device. What only the broker says is ignored in requests, so that what was exported can be imported.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DeviceJson {
    pub(crate) id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tenant: Option<String>,
    #[serde(default)]
    pub(crate) state: State,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    #[serde(default)]
    pub(crate) credentials: Vec<CredentialJson>,
    #[serde(default)]
    pub(crate) attributes: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) policy: Option<Vec<PolicyRule>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) serial: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) created_at: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) updated_at: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) revision: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) config: Option<ConfigJson>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) last_seen: Option<SeenJson>,
}

/// A credential: exactly one of `public_key`, `certificate`, `fingerprint`, and `issuer` with `serial_number`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CredentialJson {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) public_key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) certificate: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) fingerprint: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) issuer: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) serial_number: Option<String>,
    /// Only shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) algorithm: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) not_before: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) expires_at: Option<u64>,
}

/// What is to be different about a device; what is not there stays.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DevicePatch {
    #[serde(default)]
    pub(crate) state: Option<State>,
    /// `null` takes it away.
    #[serde(default, with = "given")]
    pub(crate) reason: Option<Option<String>>,
    /// Attributes one by one: `null` takes one away.
    #[serde(default)]
    pub(crate) attributes: Option<BTreeMap<String, Option<String>>>,
    /// `null` gives the device the topics that every device has.
    #[serde(default, with = "given")]
    pub(crate) policy: Option<Option<Vec<PolicyRule>>>,
}

/// Tells `null` from what is not there.
mod given {
    use serde::{Deserialize, Deserializer};

    pub(super) fn deserialize<'de, T, D>(from: D) -> Result<Option<Option<T>>, D::Error>
    where
        T: Deserialize<'de>,
        D: Deserializer<'de>,
    {
        Option::<T>::deserialize(from).map(Some)
    }
}

impl CredentialJson {
    /// Checks it; `field` is where it is.
    pub(crate) fn credential(&self, field: &str) -> Result<Credential, Invalid> {
        let at = |name: &'static str| move |text| Invalid::new(format!("{field}.{name}"), text);
        let mut expires_at = self.expires_at;
        let shown = match (
            &self.public_key,
            &self.certificate,
            &self.fingerprint,
            &self.issuer,
            &self.serial_number,
        ) {
            (Some(pem), None, None, None, None) => {
                Shown::key_from_pem(pem).map_err(at("public_key"))?
            }
            (None, Some(pem), None, None, None) => {
                let (shown, until) = Shown::fingerprint_from_pem(pem).map_err(at("certificate"))?;
                // It would not get past TLS later.
                expires_at = Some(expires_at.map_or(until, |given| given.min(until)));
                shown
            }
            (None, None, Some(digits), None, None) => {
                Shown::fingerprint_from_hex(digits).map_err(at("fingerprint"))?
            }
            (None, None, None, Some(issuer), Some(serial)) => {
                Shown::issued_from_hex(issuer, serial).map_err(at("issuer"))?
            }
            _ => {
                return Err(Invalid::new(
                    field,
                    "must have exactly one of public_key, certificate, fingerprint, or issuer with serial_number",
                ));
            }
        };
        let id = self.id.clone().unwrap_or_else(|| id_of(&shown));
        Ok(Credential {
            id,
            shown,
            not_before: self.not_before,
            expires_at,
        })
    }

    fn of(credential: &Credential) -> Self {
        let mut json = Self {
            id: Some(credential.id.clone()),
            not_before: credential.not_before,
            expires_at: credential.expires_at,
            ..Self::default()
        };
        match &credential.shown {
            Shown::Key(text) => {
                json.public_key = Some(pem(text));
                let key = credential.public_key();
                json.algorithm = key.map(|key| key.algorithm.as_str().to_owned());
            }
            Shown::Fingerprint(digits) => json.fingerprint = Some(digits.clone()),
            Shown::Issued(text) => {
                let (issuer, serial) = text.split_once(':').unwrap_or((text, ""));
                json.issuer = Some(issuer.to_owned());
                json.serial_number = Some(serial.to_owned());
            }
        }
        json
    }
}

/// The id of a credential that was given none: the same whenever the same is given.
fn id_of(shown: &Shown) -> String {
    let text = match shown {
        Shown::Key(text) | Shown::Fingerprint(text) | Shown::Issued(text) => text,
    };
    let mut hex = crate::registry::credential::hex(digest(&SHA256, text.as_bytes()).as_ref());
    hex.truncate(16);
    hex
}

fn pem(base64: &str) -> String {
    let mut text = String::from("-----BEGIN PUBLIC KEY-----\n");
    // Canonical whatever was stored; the alphabet is ASCII.
    let base64 = Base64::decode_vec(base64)
        .map(|der| Base64::encode_string(&der))
        .unwrap_or_default();
    for line in base64.as_bytes().chunks(64) {
        text.push_str(&String::from_utf8_lossy(line));
        text.push('\n');
    }
    text.push_str("-----END PUBLIC KEY-----\n");
    text
}

impl DeviceJson {
    /// Checks it and makes the device; `now` in Unix seconds.
    pub(crate) fn device(&self, now: u64) -> Result<(DeviceKey, Device), Invalid> {
        let key = DeviceKey::new(self.tenant.as_deref(), &self.id)?;
        let mut device = Device::new(now);
        device.state = self.state;
        device.reason.clone_from(&self.reason);
        device.attributes.clone_from(&self.attributes);
        device.policy.clone_from(&self.policy);
        for (index, credential) in self.credentials.iter().enumerate() {
            device
                .credentials
                .push(credential.credential(&format!("credentials[{index}]"))?);
        }
        device.check()?;
        Ok((key, device))
    }

    pub(crate) fn of(found: &Found) -> Self {
        let device = &found.device;
        Self {
            id: found.key.id().to_owned(),
            tenant: found.key.tenant().map(str::to_owned),
            state: device.state,
            reason: device.reason.clone(),
            credentials: device.credentials.iter().map(CredentialJson::of).collect(),
            attributes: device.attributes.clone(),
            policy: device.policy.clone(),
            serial: device.serial.clone(),
            created_at: Some(device.created_at),
            updated_at: Some(device.updated_at),
            revision: Some(found.revision),
            config: None,
            last_seen: None,
        }
    }
}

impl DevicePatch {
    pub(crate) fn apply(&self, device: &mut Device) {
        if let Some(state) = self.state {
            device.state = state;
            if state == State::Active {
                device.reason = None;
            }
        }
        if let Some(reason) = &self.reason {
            device.reason.clone_from(reason);
        }
        for (name, value) in self.attributes.iter().flatten() {
            match value {
                Some(value) => drop(device.attributes.insert(name.clone(), value.clone())),
                None => drop(device.attributes.remove(name)),
            }
        }
        if let Some(policy) = &self.policy {
            device.policy.clone_from(policy);
        }
    }
}

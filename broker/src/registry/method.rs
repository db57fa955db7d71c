//! A device of the registry connects: with a token that one of its keys has signed, or with one of its certificates.
//!
//! Which device a token is of is said by the client, not by the token: nothing of a token is read before it has been verified. The client
//! id of IoT Core names it (`projects/P/locations/L/registries/R/devices/D`, any user name), else the user name if that is a device's, else the
//! client id. The id of a client is then bound to that of its device, as who has a client id has its session.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use dunlin_protocol::ReasonCode;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use super::credential::Shown;
use super::device::{Device, DeviceKey, State};
use super::error::RegistryError;
use super::policy::rules_of;
use super::service::{Found, Registry};
use crate::auth::jwt::{Checks, Key, Token};
use crate::auth::{Auth, Authenticator, Credential, Credentials, Method, Principal, Verdict};
use crate::config::AuthConfig;

/// Seconds that the clock of a device may differ from ours, as with IoT Core.
const LEEWAY: u64 = 600;
/// Longest life of a device's token, in seconds.
const LIFETIME_MAX: u64 = 86_400;

/// Asks the registry who a client is.
#[derive(Debug)]
pub struct RegistryMethod {
    registry: Arc<Registry>,
    /// One of these is the audience of a token, but for the client ids of IoT Core; empty: any.
    audiences: Vec<String>,
}

impl RegistryMethod {
    /// `audiences`: what tokens must be for, if anything.
    #[must_use]
    pub fn new(registry: Arc<Registry>, audiences: Vec<String>) -> Self {
        Self {
            registry,
            audiences,
        }
    }

    /// Has the registry asked from now on, or not, as the configuration says.
    pub(crate) fn arrange(auth: &Auth, registry: &Arc<Registry>, config: &AuthConfig) {
        if config.registry {
            let audiences = config.registry_audiences.clone();
            auth.add(Arc::new(Self::new(Arc::clone(registry), audiences)));
        } else {
            auth.remove(Method::Registry);
        }
    }
}

impl Authenticator for RegistryMethod {
    fn method(&self) -> Method {
        Method::Registry
    }

    fn takes_bare_passwords(&self) -> bool {
        true
    }

    fn authenticate<'a>(&'a self, credentials: &'a Credentials) -> BoxFuture<'a, Verdict> {
        async move {
            let asked = match self.by_token(credentials).await {
                Ok(Verdict::Skip) => self.by_certificate(credentials).await,
                other => other,
            };
            asked.unwrap_or_else(|error| {
                tracing::warn!(%error, "the registry of devices cannot be asked");
                let why = "the registry of devices cannot be asked now";
                Verdict::Refuse(ReasonCode::SERVER_UNAVAILABLE, why)
            })
        }
        .boxed()
    }
}

/// The parts of a client id of IoT Core.
#[derive(Debug, PartialEq, Eq)]
struct IotCore<'a> {
    project: &'a str,
    registry: &'a str,
    device: &'a str,
}

impl<'a> IotCore<'a> {
    fn parse(client_id: &'a str) -> Option<Self> {
        let parts: Vec<_> = client_id.split('/').collect();
        match parts[..] {
            [
                "projects",
                project,
                "locations",
                location,
                "registries",
                registry,
                "devices",
                device,
            ] if ![project, location, registry].contains(&"") => Some(Self {
                project,
                registry,
                device,
            }),
            _ => None,
        }
    }

    /// Its registry is the tenant, if that has such a device; else it is of no tenant.
    fn keys(&self) -> Vec<DeviceKey> {
        [Some(self.registry), None]
            .into_iter()
            .filter_map(|tenant| DeviceKey::new(tenant, self.device).ok())
            .collect()
    }
}

/// `tenant/id`, or `id` of no tenant.
fn named(text: &str) -> Option<DeviceKey> {
    match text.contains('/') {
        true => DeviceKey::parse(text),
        false => DeviceKey::new(None, text).ok(),
    }
}

/// Whether a client of this device may have this id: the device's own, one below it, or that of IoT Core.
fn may_be_called(client_id: &str, key: &DeviceKey) -> bool {
    if IotCore::parse(client_id).is_some_and(|it| it.device == key.id()) {
        return true;
    }
    let own = |name: &str| {
        let rest = client_id.strip_prefix(name);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    match key.tenant() {
        // Client ids of a tenant are apart from all others.
        Some(tenant) => own(key.id()) || own(&format!("{tenant}/{}", key.id())),
        None => own(key.id()),
    }
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

const WRONG: Verdict = Verdict::Refuse(
    ReasonCode::BAD_USER_NAME_OR_PASSWORD,
    "no key of the device has signed the token",
);
const BLOCKED: Verdict = Verdict::Refuse(ReasonCode::NOT_AUTHORIZED, "the device is blocked");
const NOT_NOW: Verdict = Verdict::Refuse(
    ReasonCode::NOT_AUTHORIZED,
    "this credential of the device is not good now",
);
const CALLED: Verdict = Verdict::Refuse(
    ReasonCode::CLIENT_IDENTIFIER_NOT_VALID,
    "the client id is not that of the device",
);

impl RegistryMethod {
    async fn by_token(&self, credentials: &Credentials) -> Result<Verdict, RegistryError> {
        let password = credentials.password.as_ref();
        let Some(token) = password.and_then(|password| Token::parse(password)) else {
            return Ok(Verdict::Skip);
        };
        let iot_core = IotCore::parse(&credentials.client_id);
        let keys = match &iot_core {
            Some(iot_core) => iot_core.keys(),
            None => [
                credentials.username.as_deref(),
                Some(&credentials.client_id),
            ]
            .into_iter()
            .flatten()
            .filter_map(named)
            .collect(),
        };
        let Some(found) = self.first_of(&keys).await? else {
            return Ok(Verdict::Skip);
        };
        let audiences = match iot_core {
            Some(iot_core) => vec![iot_core.project.to_owned()],
            None => self.audiences.clone(),
        };
        Ok(token_verdict(
            &token,
            &found,
            audiences,
            &credentials.client_id,
            now(),
        ))
    }

    async fn first_of(&self, keys: &[DeviceKey]) -> Result<Option<Found>, RegistryError> {
        for key in keys {
            if let Some(found) = self.registry.get(key).await? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    async fn by_certificate(&self, credentials: &Credentials) -> Result<Verdict, RegistryError> {
        let Some(certificate) = &credentials.certificate else {
            return Ok(Verdict::Skip);
        };
        let Some(der) = certificate.chain.first() else {
            return Ok(Verdict::Skip);
        };
        for shown in [Some(Shown::of_certificate(der)), Shown::issued(der)] {
            let Some(shown) = shown else { continue };
            let Some(found) = self.registry.of_certificate(&shown).await? else {
                continue;
            };
            if found.device.state == State::Blocked {
                return Ok(BLOCKED);
            }
            if !may_be_called(&credentials.client_id, &found.key) {
                return Ok(CALLED);
            }
            let mut of_device = found.device.credentials.iter();
            let Some(credential) = of_device.find(|it| it.shown == shown && it.is_good(now()))
            else {
                return Ok(NOT_NOW);
            };
            let not_after = u64::try_from(certificate.not_after).ok();
            let shown = Credential::Certificate {
                sha256: certificate.sha256,
                serial: certificate.serial.clone(),
            };
            let ends = earlier(credential.expires_at, not_after);
            return Ok(Verdict::Accept(Arc::new(principal(&found, shown, ends))));
        }
        Ok(Verdict::Skip)
    }
}

fn token_verdict(
    token: &Token<'_>,
    found: &Found,
    audiences: Vec<String>,
    client_id: &str,
    now: u64,
) -> Verdict {
    let signed = found.device.credentials.iter().find_map(|credential| {
        let key = Key::from_spki_der(&credential.key_der()?).ok()?;
        Some((credential, token.verified_by(&key)?))
    });
    let Some((credential, claims)) = signed else {
        return WRONG;
    };
    if found.device.state == State::Blocked {
        return BLOCKED;
    }
    if !credential.is_good(now) {
        return NOT_NOW;
    }
    let checks = Checks {
        issuers: Vec::new(),
        audiences,
        leeway: LEEWAY,
        max_lifetime: LIFETIME_MAX,
        endless: false,
    };
    let ends = match checks.check(&claims, now) {
        Ok(ends) => ends,
        Err(fault) => return Verdict::Refuse(ReasonCode::NOT_AUTHORIZED, fault.words()),
    };
    let subject = claims.text("sub");
    if subject.is_some_and(|subject| {
        subject != found.key.id() && named(subject).as_ref() != Some(&found.key)
    }) {
        let why = "the token is about another device";
        return Verdict::Refuse(ReasonCode::NOT_AUTHORIZED, why);
    }
    if !may_be_called(client_id, &found.key) {
        return CALLED;
    }
    let ends = earlier(credential.expires_at, ends);
    let shown = Credential::Key {
        id: credential.id.as_str().into(),
        print: credential.print(),
    };
    Verdict::Accept(Arc::new(principal(found, shown, ends)))
}

fn earlier(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// Who a device is.
fn principal(found: &Found, shown: Credential, expires_at: Option<u64>) -> Principal {
    let id: Arc<str> = found.key.id().into();
    let mut principal = Principal::new(Method::Registry, Some(Arc::clone(&id)));
    principal.tenant = found.key.tenant().map(Arc::from);
    principal.device = Some(id);
    principal.credential = Some(shown);
    principal.expires_at = expires_at;
    fill_in(&mut principal, &found.device);
    principal
}

fn fill_in(principal: &mut Principal, device: &Device) {
    let attributes = device.attributes.iter();
    principal.attributes = attributes
        .map(|(name, value)| (name.as_str().into(), value.as_str().into()))
        .collect();
    principal.policy = Some(rules_of(device));
}

/// The device of a client; `None`: it is none of the registry.
pub(crate) fn key_of(principal: &Principal) -> Option<DeviceKey> {
    DeviceKey::new(principal.tenant.as_deref(), principal.device.as_deref()?).ok()
}

/// What a live client is after its device was read again; `None`: it must go.
pub(crate) fn renewed(principal: &Principal, found: Option<&Found>) -> Option<Arc<Principal>> {
    let device = &found?.device;
    if device.state == State::Blocked {
        return None;
    }
    let now = now();
    let mut credentials = device.credentials.iter().filter(|it| it.is_good(now));
    let ends = match &principal.credential {
        // Let in by another method, as the device that it is.
        None | Some(Credential::Token { .. } | Credential::Password { .. }) => None,
        Some(Credential::Key { id, print }) => {
            let same = credentials.find(|it| *it.id == **id && it.print() == *print);
            same?.expires_at
        }
        Some(Credential::Certificate { sha256, serial }) => {
            let fingerprint = Shown::Fingerprint(super::credential::hex(sha256));
            let shown = credentials.find(|it| match &it.shown {
                Shown::Issued(text) => text.split_once(':').is_some_and(|(_, of)| *of == **serial),
                shown => *shown == fingerprint,
            });
            shown?.expires_at
        }
    };
    let mut renewed = principal.clone();
    // What the client has shown may end before the credential does.
    renewed.expires_at = earlier(principal.expires_at, ends);
    fill_in(&mut renewed, device);
    Some(Arc::new(renewed))
}

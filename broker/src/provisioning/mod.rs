//! Provisioning: a device that has nothing but a bootstrap credential asks for an identity of its own.
//!
//! One serial number, one identity: it is claimed in the table `serial` by comparison, so of two that ask at once, on whichever replicas,
//! one gets it. Who asks again with the same key gets the same identity; another key is refused until an
//! administrator has removed the serial number from the list. Each step can be repeated after a crash: the claim comes first, then
//! the certificate, which is kept in the claim, then the device.

mod authority;
mod checks;
mod claim;
mod hook;
mod http;
mod method;
mod rate;
mod register;
mod request;
mod serve;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;

use crate::admin::now;
use crate::audit::{Audit, Event, Kind};
use crate::auth::jwt::Key;
use crate::config::ProvisioningConfig;
use crate::http::HttpClient;
use crate::registry::{Credential, DeviceKey, Registry, Shown};
use authority::Authority;
pub(crate) use method::BootstrapMethod;
use method::Bootstraps;
use rate::Rate;
pub(crate) use request::{Bootstrap, Caller, Identity, Refusal, Request};
use request::{Material, read};
pub(crate) use serve::serve;

/// Bytes of the answer of a hook.
const ANSWER_MAX: usize = 64 * 1024;
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
    /// Over MQTT, too.
    mqtt: Option<Bootstraps>,
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
        let mqtt = config.mqtt.as_ref().map(Bootstraps::new).transpose()?;
        Ok(Self {
            mqtt,
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

    /// Counts a request, before anything of it is looked at.
    ///
    /// # Errors
    /// When there are too many.
    pub(crate) fn count(&self, who: &Bootstrap, caller: Caller<'_>) -> Result<(), Refusal> {
        let now = now();
        let within = self.by_credential.takes(&who.name, now)
            && self.by_address.takes(&caller.peer.ip().to_string(), now);
        if within {
            return Ok(());
        }
        self.refused(Some(who), caller, None, &Refusal::TooMany.to_string());
        Err(Refusal::TooMany)
    }

    /// Has the audit log know of a request that came to nothing.
    pub(crate) fn refused(
        &self,
        who: Option<&Bootstrap>,
        caller: Caller<'_>,
        serial: Option<&str>,
        why: &str,
    ) {
        let event = event(who, caller).action("provisioning.refused").why(why);
        self.audit.record(match serial {
            Some(serial) => event.target(serial),
            None => event,
        });
    }

    /// Gives an identity, or says why not; both are in the audit log. Cancel safe: whoever asks again with the same key gets what it would have got.
    pub(crate) async fn ask(
        &self,
        who: &Bootstrap,
        caller: Caller<'_>,
        request: &Request,
    ) -> Result<Identity, Refusal> {
        match self.give(who, caller.peer, request).await {
            Ok((identity, action)) => {
                let event = event(Some(who), caller).target(&request.serial);
                self.audit.record(event.action(action));
                Ok(identity)
            }
            Err(refusal) => {
                let why = refusal.to_string();
                self.refused(Some(who), caller, Some(&request.serial), &why);
                Err(refusal)
            }
        }
    }

    async fn give(
        &self,
        who: &Bootstrap,
        peer: SocketAddr,
        request: &Request,
    ) -> Result<(Identity, &'static str), Refusal> {
        let now = now();
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
}

fn event(who: Option<&Bootstrap>, caller: Caller<'_>) -> Event {
    let mut event = Event::new(Kind::Provisioning).peer(caller.peer);
    if let Some(who) = who {
        event = event
            .by(&who.name)
            .tenant(who.tenant.as_deref().map(Arc::from).as_ref());
    }
    match caller.client {
        Some((listener, client)) => event.listener(listener).client(client),
        None => event,
    }
}

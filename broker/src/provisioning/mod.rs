//! Provisioning: a device that has nothing but a bootstrap credential asks for an identity of its own.
//!
//! One serial number, one identity: it is claimed in the table `serial` by comparison, so of two that ask at once, on whichever replicas,
//! one gets it. Who asks again with the same key gets the same identity; another key is refused until an
//! administrator has removed the serial number from the list. Each step can be repeated after a crash: the claim comes first, then
//! the certificate, which is kept in the claim, then the device.

mod authority;
mod checks;
mod claim;
mod files;
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
use crate::ops::metrics::{Asked, Metrics};
use crate::registry::{Credential, DeviceKey, Registry, Shown};
use authority::Authority;
pub(crate) use files::Files;
pub(crate) use method::BootstrapMethod;
use method::Bootstraps;
use rate::{Rate, Takes};
pub(crate) use request::{Bootstrap, Caller, Identity, Refusal, Request};
use request::{Material, read};
pub(crate) use serve::serve;

/// Gives identities.
#[derive(Debug)]
pub(crate) struct Provisioner {
    registry: Arc<Registry>,
    audit: Arc<Audit>,
    metrics: Arc<Metrics>,
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
    /// `files` are those that the configuration names.
    pub(crate) fn new(
        config: &ProvisioningConfig,
        files: Files,
        registry: Arc<Registry>,
        audit: Arc<Audit>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let Files {
            keys,
            authority,
            hook,
            mqtt,
        } = files;
        Self {
            mqtt,
            registry,
            audit,
            metrics,
            keys,
            audience: config.audience.clone(),
            listed_only: config.listed_only,
            authority,
            hook,
            by_credential: Rate::new(config.per_minute),
            by_address: Rate::new(config.per_minute),
        }
    }

    /// Counts a request, before anything of it is looked at. Of those that are too many the audit log is told once a minute.
    ///
    /// # Errors
    /// When there are too many.
    pub(crate) fn count(&self, who: &Bootstrap, caller: Caller<'_>) -> Result<(), Refusal> {
        let now = now();
        let mut takes = self.by_credential.takes(&who.name, now);
        if takes == Takes::Yes {
            takes = self.by_address.takes(&caller.peer.ip().to_string(), now);
        }
        if takes == Takes::Yes {
            return Ok(());
        }
        self.metrics.provisioning_requests.add(Asked::Refused, 1);
        if takes == Takes::NoMore {
            self.note(Some(who), caller, None, &Refusal::TooMany.to_string());
        }
        Err(Refusal::TooMany)
    }

    /// Counts somebody who has shown no bootstrap credential that is good: a stranger cannot fill the audit log.
    pub(crate) fn stranger(&self, caller: Caller<'_>) {
        self.metrics.provisioning_requests.add(Asked::Refused, 1);
        let address = caller.peer.ip().to_string();
        if self.by_address.takes(&address, now()) == Takes::Yes {
            self.note(None, caller, None, "no bootstrap credential that is good");
        }
    }

    /// Counts a request that came to nothing, and has the audit log know of it.
    pub(crate) fn refused(
        &self,
        who: &Bootstrap,
        caller: Caller<'_>,
        serial: Option<&str>,
        why: &str,
    ) {
        self.metrics.provisioning_requests.add(Asked::Refused, 1);
        self.note(Some(who), caller, serial, why);
    }

    fn note(&self, who: Option<&Bootstrap>, caller: Caller<'_>, serial: Option<&str>, why: &str) {
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
            Ok((identity, new)) => {
                let (asked, action) = match new {
                    true => (Asked::Given, "provisioning.given"),
                    false => (Asked::Repeated, "provisioning.repeated"),
                };
                self.metrics.provisioning_requests.add(asked, 1);
                let event = event(Some(who), caller).target(&request.serial);
                self.audit.record(event.action(action));
                Ok(identity)
            }
            Err(refusal) => {
                let asked = match refusal {
                    Refusal::Unavailable(_) => Asked::Unavailable,
                    _ => Asked::Refused,
                };
                self.metrics.provisioning_requests.add(asked, 1);
                let why = refusal.to_string();
                self.note(Some(who), caller, Some(&request.serial), &why);
                Err(refusal)
            }
        }
    }

    /// Also says whether it is a new one.
    async fn give(
        &self,
        who: &Bootstrap,
        peer: SocketAddr,
        request: &Request,
    ) -> Result<(Identity, bool), Refusal> {
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
        Ok((identity, new))
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

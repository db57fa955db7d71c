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
use crate::auth::jwt::{Checks, Key, Token};
use crate::config::ProvisioningConfig;
use crate::http::HttpClient;
use crate::registry::{Credential, DeviceKey, Registry, Shown};
use authority::Authority;
use rate::Rate;
pub(crate) use request::{Bootstrap, Identity, Refusal, Request};
use request::{Material, read};
pub(crate) use serve::serve;

/// Bytes of the answer of a hook.
const ANSWER_MAX: usize = 64 * 1024;
/// Longest life of a bootstrap token, in seconds: a production run.
const TOKEN_LIFE_MAX: u64 = 400 * 86_400;

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
}

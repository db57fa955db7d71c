//! Bootstrap credentials: tokens and certificates, and the method of authentication that knows them on MQTT listeners.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Bootstrap, Provisioner};
use crate::admin::now;
use crate::auth::jwt::{Checks, Token};
use crate::auth::{Authenticator, Credential, Credentials, Method, Principal, Verdict};
use crate::config::BootstrapConfig;
use crate::net::ClientCertificate;
use crate::registry::credential::hex;

/// Longest life of a bootstrap token, in seconds: a production run.
const TOKEN_LIFE_MAX: u64 = 400 * 86_400;
/// Devices that ask over MQTT at a time.
const CONNECTIONS: usize = 512;
/// Name of the attribute with the serial number for which alone a credential is.
const ONLY: &str = "serial";

/// What there is for devices that ask over MQTT.
#[derive(Debug)]
pub(super) struct Bootstraps {
    /// Of whose certificates it is said that they are bootstrap credentials.
    authorities: Option<Arc<dyn ClientCertVerifier>>,
    places: Arc<Semaphore>,
    lifetime: Duration,
}

impl Bootstraps {
    pub(super) fn new(config: &BootstrapConfig) -> Result<Self, String> {
        let authorities = config.client_ca.as_deref().map(verifier);
        Ok(Self {
            authorities: authorities.transpose()?,
            places: Arc::new(Semaphore::new(CONNECTIONS)),
            lifetime: config.lifetime,
        })
    }
}

fn verifier(path: &Path) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let wrong = |error: &dyn std::fmt::Display| {
        format!(
            "{} holds no authorities that can be used: {error}",
            path.display()
        )
    };
    let pem = std::fs::read(path).map_err(|error| wrong(&error))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| wrong(&error))?;
        roots.add(certificate).map_err(|error| wrong(&error))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
    match verifier {
        Ok(verifier) => Ok(verifier),
        Err(error) => Err(wrong(&error)),
    }
}

/// A bootstrap token that is good.
pub(super) struct OfToken {
    pub(super) bootstrap: Bootstrap,
    /// Its `jti`.
    id: Option<Box<str>>,
    /// Unix seconds.
    ends: Option<u64>,
}

impl Provisioner {
    /// Whose bootstrap token this is; `None`: it is none that is good.
    pub(super) fn of_token(&self, token: &Token<'_>) -> Option<OfToken> {
        let claims = self.keys.iter().find_map(|key| token.verified_by(key))?;
        let checks = Checks {
            issuers: Vec::new(),
            audiences: vec![self.audience.clone()],
            leeway: 600,
            max_lifetime: TOKEN_LIFE_MAX,
            endless: false,
        };
        let ends = checks.check(&claims, now()).ok()?;
        let bootstrap = Bootstrap {
            name: claims.text("sub").unwrap_or("token").to_owned(),
            tenant: claims.text("tenant").map(str::to_owned),
            serial: claims.text("serial").map(str::to_owned),
        };
        Some(OfToken {
            bootstrap,
            id: claims.text("jti").map(Into::into),
            ends,
        })
    }

    /// The bearer of a certificate that an authority of bootstrap credentials has signed; `None` when its time is over: a TLS session that is
    /// resumed does not look again.
    pub(super) fn of_certificate(certificate: &ClientCertificate) -> Option<Bootstrap> {
        let end = u64::try_from(certificate.not_after).ok()?;
        (now() < end).then(|| Bootstrap {
            name: format!("certificate:{}", hex(&certificate.sha256)),
            tenant: None,
            serial: None,
        })
    }

    /// A place among those that ask over MQTT at a time, and how long a connection lives; `None`: there is none.
    pub(crate) fn enter(&self) -> Option<(OwnedSemaphorePermit, Duration)> {
        let mqtt = self.mqtt.as_ref()?;
        let place = Arc::clone(&mqtt.places).try_acquire_owned().ok()?;
        Some((place, mqtt.lifetime))
    }
}

/// Knows bootstrap credentials on MQTT listeners.
#[derive(Debug)]
pub(crate) struct BootstrapMethod(pub(crate) Arc<Provisioner>);

impl BootstrapMethod {
    fn by_certificate(&self, certificate: &ClientCertificate) -> Option<Verdict> {
        let mqtt = self.0.mqtt.as_ref()?;
        let (first, between) = certificate.chain.split_first()?;
        let authorities = mqtt.authorities.as_ref()?;
        authorities
            .verify_client_cert(first, between, UnixTime::now())
            .ok()?;
        let bootstrap = Provisioner::of_certificate(certificate)?;
        let shown = Credential::Certificate {
            sha256: certificate.sha256,
            serial: certificate.serial.clone(),
        };
        let ends = u64::try_from(certificate.not_after).ok();
        Some(accept(bootstrap, shown, ends))
    }

    fn by_token(&self, password: &[u8]) -> Option<Verdict> {
        let token = Token::parse(password)?;
        let OfToken {
            bootstrap,
            id,
            ends,
        } = self.0.of_token(&token)?;
        let shown = Credential::Token {
            id,
            key: token.key_id().map(Into::into),
        };
        Some(accept(bootstrap, shown, ends))
    }
}

impl Authenticator for BootstrapMethod {
    fn method(&self) -> Method {
        Method::Provisioning
    }

    fn takes_bare_passwords(&self) -> bool {
        true
    }

    fn authenticate<'a>(&'a self, credentials: &'a Credentials) -> BoxFuture<'a, Verdict> {
        let by_token = credentials
            .password
            .as_ref()
            .and_then(|password| self.by_token(password));
        let verdict = by_token.or_else(|| {
            let certificate = credentials.certificate.as_ref();
            certificate.and_then(|certificate| self.by_certificate(certificate))
        });
        std::future::ready(verdict.unwrap_or(Verdict::Skip)).boxed()
    }
}

fn accept(bootstrap: Bootstrap, shown: Credential, ends: Option<u64>) -> Verdict {
    let mut principal = Principal::new(Method::Provisioning, Some(bootstrap.name.into()));
    principal.tenant = bootstrap.tenant.map(Into::into);
    let only = bootstrap.serial.map(|serial| (ONLY.into(), serial.into()));
    principal.attributes = only.into_iter().collect();
    principal.credential = Some(shown);
    principal.expires_at = ends;
    Verdict::Accept(Arc::new(principal))
}

impl Bootstrap {
    /// What [`BootstrapMethod`] has made a principal of.
    pub(crate) fn of(principal: &Principal) -> Self {
        let only = principal.attributes.get(ONLY);
        Self {
            name: principal.username.as_deref().unwrap_or_default().to_owned(),
            tenant: principal.tenant.as_deref().map(str::to_owned),
            serial: only.map(|serial| serial.to_string()),
        }
    }
}

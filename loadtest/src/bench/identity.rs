//! What a server under test shows to those who connect by TLS.

use std::path::Path;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::{ClientConfig, RootCertStore};

use crate::error::Error;

/// A certificate for 127.0.0.1 that is good for one measurement.
#[derive(Debug)]
pub(super) struct Identity {
    certificate: String,
    key: String,
    /// Trusts this certificate, and resumes nothing: each handshake is a whole one.
    pub(super) trusted: Arc<ClientConfig>,
}

impl Identity {
    pub(super) fn new() -> Result<Self, Error> {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]);
        let made = made.map_err(|problem| Error::Tls(problem.to_string()))?;
        let wrong = |problem: rustls::Error| Error::Tls(problem.to_string());
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).map_err(wrong)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut trusted = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(wrong)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        trusted.resumption = Resumption::disabled();
        Ok(Self {
            certificate: made.cert.pem(),
            key: made.signing_key.serialize_pem(),
            trusted: Arc::new(trusted),
        })
    }

    /// Writes `tls.crt` and `tls.key`.
    pub(super) fn write_to(&self, folder: &Path) -> Result<(), Error> {
        for (name, content) in [("tls.crt", &self.certificate), ("tls.key", &self.key)] {
            let path = folder.join(name);
            std::fs::write(&path, content).map_err(|source| Error::Output { path, source })?;
        }
        Ok(())
    }
}

//! TLS towards the broker: whom we trust, and who we are.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

/// Files for TLS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// PEM file with the certificates to trust. None: the system's, from the usual places.
    pub ca: Option<PathBuf>,
    /// PEM file with our certificate and those between it and its root.
    pub certificate: Option<PathBuf>,
    /// PEM file with its private key.
    pub key: Option<PathBuf>,
}

/// Files for TLS cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read or is not PEM.
    #[error("{} cannot be read as {what}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
        /// Why not.
        reason: String,
    },
    /// There is nothing to trust.
    #[error("no certificate authority to trust was found: set mqtt.ca_file (looked at {0})")]
    NoRoots(String),
    /// One of certificate and key is missing.
    #[error("a client certificate needs both mqtt.certificate_file and mqtt.key_file")]
    Half,
    /// Certificate and key do not go together, or are of a kind that is not supported.
    #[error("{} and {} cannot be used as client certificate: {reason}", certificate.display(), key.display())]
    Pair {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Why not.
        reason: String,
    },
}

const SYSTEM_ROOTS: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
];

impl TlsFiles {
    /// Reads the files.
    ///
    /// # Errors
    /// When one is missing, is not what it should be, or does not fit the other.
    pub fn load(&self) -> Result<Arc<ClientConfig>, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError::NoRoots(error.to_string()))?
            .with_root_certificates(self.roots()?);
        let config = match (&self.certificate, &self.key) {
            (None, None) => builder.with_no_client_auth(),
            (Some(certificate), Some(key)) => {
                let chain = certificates(certificate)?;
                let private = PrivateKeyDer::from_pem_file(key)
                    .map_err(|error| file(key, "a private key", &error))?;
                builder
                    .with_client_auth_cert(chain, private)
                    .map_err(|error| TlsError::Pair {
                        certificate: certificate.clone(),
                        key: key.clone(),
                        reason: error.to_string(),
                    })?
            }
            _ => return Err(TlsError::Half),
        };
        Ok(Arc::new(config))
    }

    fn roots(&self) -> Result<RootCertStore, TlsError> {
        let mut roots = RootCertStore::empty();
        if let Some(ca) = &self.ca {
            for certificate in certificates(ca)? {
                roots
                    .add(certificate)
                    .map_err(|error| file(ca, "certificates to trust", &error))?;
            }
            return Ok(roots);
        }
        let system = SYSTEM_ROOTS
            .iter()
            .map(Path::new)
            .find(|path| path.is_file());
        if let Some(path) = system {
            roots.add_parsable_certificates(certificates(path)?);
        }
        if roots.is_empty() {
            Err(TlsError::NoRoots(SYSTEM_ROOTS.join(", ")))
        } else {
            Ok(roots)
        }
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let found = read.map_err(|error| file(path, "certificates", &error))?;
    if found.is_empty() {
        return Err(file(path, "certificates", &"it holds none in PEM form"));
    }
    Ok(found)
}

fn file(path: &Path, what: &'static str, reason: &dyn std::fmt::Display) -> TlsError {
    TlsError::File {
        path: path.to_owned(),
        what,
        reason: reason.to_string(),
    }
}

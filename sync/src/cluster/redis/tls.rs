//! TLS with Redis: whom to trust, and who the server must be.
//!
//! Usually a certificate must name the address that was connected to. Where servers have an authority of their own, whose certificates name something
//! else or nothing, their authority says enough about who they are: nobody else has a certificate of it.

use std::sync::Arc;

use parking_lot::Mutex;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, InvalidDnsNameError, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{DigitallySignedStruct, SignatureScheme};

use super::options::{ANY_NAME, RedisError, RedisOptions};

/// TLS whose files may be renewed: they are read for each connection, of which there are few. Files that cannot be
/// used leave what was read before.
pub(super) struct Renewing {
    options: RedisOptions,
    last: Mutex<Arc<rustls::ClientConfig>>,
}

impl Renewing {
    pub(super) fn new(options: &RedisOptions) -> Result<Self, RedisError> {
        Ok(Self {
            last: Mutex::new(tls_config(options)?),
            options: options.clone(),
        })
    }

    /// What a server at this host must be called by its certificate.
    pub(super) fn name(&self, host: &str) -> Result<ServerName<'static>, InvalidDnsNameError> {
        let name = match self.options.server_name.as_deref() {
            None | Some(ANY_NAME) => host,
            Some(name) => name,
        };
        ServerName::try_from(name.to_owned())
    }

    pub(super) fn config(&self) -> Arc<rustls::ClientConfig> {
        match tls_config(&self.options) {
            Ok(config) => {
                *self.last.lock() = Arc::clone(&config);
                config
            }
            Err(error) => {
                tracing::error!(%error, "the files for TLS to Redis cannot be used: the ones read before stay");
                Arc::clone(&self.last.lock())
            }
        }
    }
}

fn tls_config(options: &RedisOptions) -> Result<Arc<rustls::ClientConfig>, RedisError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| bad("the TLS library", error))?;
    let builder = match options.server_name.as_deref() {
        Some(ANY_NAME) => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(OfAuthority::new(options)?)),
        _ => builder.with_root_certificates(roots(options)?),
    };
    let config = match (&options.cert_file, &options.key_file) {
        (Some(cert), Some(key)) => {
            let chain = CertificateDer::pem_file_iter(cert)
                .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                .map_err(|error| bad(cert.display(), error))?;
            let secret =
                PrivateKeyDer::from_pem_file(key).map_err(|error| bad(key.display(), error))?;
            builder
                .with_client_auth_cert(chain, secret)
                .map_err(|error| bad(cert.display(), error))?
        }
        _ => builder.with_no_client_auth(),
    };
    Ok(Arc::new(config))
}

fn roots(options: &RedisOptions) -> Result<rustls::RootCertStore, RedisError> {
    let mut roots = rustls::RootCertStore::empty();
    match &options.ca_file {
        Some(file) => {
            let certs = CertificateDer::pem_file_iter(file)
                .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                .map_err(|error| bad(file.display(), error))?;
            let (added, _) = roots.add_parsable_certificates(certs);
            if added == 0 {
                return Err(bad(file.display(), "no certificate in it"));
            }
        }
        None => {
            let found = rustls_native_certs::load_native_certs();
            let (added, _) = roots.add_parsable_certificates(found.certs);
            if added == 0 {
                return Err(bad(
                    "the system's certificates",
                    "there are none; name a file (redis.ca_file)",
                ));
            }
        }
    }
    Ok(roots)
}

fn bad(file: impl std::fmt::Display, reason: impl std::fmt::Display) -> RedisError {
    RedisError::Tls {
        file: file.to_string(),
        reason: reason.to_string(),
    }
}

/// Takes every certificate that is from one of these authorities and valid today, whatever it names.
#[derive(Debug)]
struct OfAuthority {
    roots: rustls::RootCertStore,
    provider: CryptoProvider,
}

impl OfAuthority {
    /// # Errors
    /// The authorities are not named: those of the system give certificates to everybody.
    fn new(options: &RedisOptions) -> Result<Self, RedisError> {
        if options.ca_file.is_none() {
            return Err(bad(
                "redis.server_name = \"*\"",
                "it needs redis.ca_file, with the authority that only Redis has certificates of",
            ));
        }
        Ok(Self {
            roots: roots(options)?,
            provider: rustls::crypto::ring::default_provider(),
        })
    }
}

impl ServerCertVerifier for OfAuthority {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(end_entity)?,
            &self.roots,
            intermediates,
            now,
            self.provider.signature_verification_algorithms.all,
        )?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &self.provider.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}

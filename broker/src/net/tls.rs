//! TLS: from PEM files to a configuration of rustls, with words for everything that can be wrong.

use std::{path::Path, sync::Arc};

use ::ring::digest::{Context, SHA256};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
    sign::CertifiedKey,
};
use x509_parser::{
    certificate::X509Certificate, extensions::GeneralName, prelude::FromDer, time::ASN1Time,
};

use self::{names::Names, revocation::Lists};
use crate::{
    auth::Revoked,
    config::{ClientAuth, NameFrom, TlsConfig, TlsVersion},
    error::Code,
};

mod names;
mod revocation;

/// Longest name taken from a certificate, in bytes.
const MAX_NAME: usize = 1_024;

/// What is wrong with the files of a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFault {
    /// The page in the error catalogue.
    pub code: Code,
    /// The key of the configuration that names the file.
    pub key: &'static str,
    /// What is wrong and what to do.
    pub text: String,
}

/// A configuration of rustls, and what is doubtful about it.
#[derive(Debug)]
pub struct Loaded {
    /// For new connections.
    pub config: Arc<ServerConfig>,
    /// When the server's certificate expires, in Unix seconds.
    pub not_after: i64,
    /// The same for the same files: SHA-256 over all that was read.
    pub fingerprint: Fingerprint,
    /// What the lists of revoked certificates have.
    pub revoked: Arc<Revoked>,
    /// What can be lived with, such as a certificate that has expired.
    pub warnings: Vec<TlsFault>,
}

/// Tells files from others.
pub type Fingerprint = [u8; 32];

/// Reads the files and makes the configuration.
///
/// # Errors
/// Everything that is wrong with them.
pub fn load(tls: &TlsConfig) -> Result<Loaded, Vec<TlsFault>> {
    let provider = Arc::new(ring::default_provider());
    let mut faults = Vec::new();
    let fingerprint = fingerprint(tls);
    let chain = keep(certificates(&tls.certificate, "certificate"), &mut faults);
    let key = keep(private_key(&tls.key, "key"), &mut faults);
    let versions = match tls.min_version {
        TlsVersion::V12 => rustls::ALL_VERSIONS,
        TlsVersion::V13 => &[&rustls::version::TLS13],
    };
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .map_err(|error| vec![fault(Code::TlsContent, "certificate", error.to_string())])?;
    let lists = revocation::load(&tls.crl, &mut faults);
    let verifier = keep(client_verifier(tls, &provider, &lists), &mut faults);
    let named = names::load(&tls.sni, &provider, &mut faults);
    let (Some(chain), Some(key), Some(verifier), true) = (chain, key, verifier, faults.is_empty())
    else {
        return Err(faults);
    };

    let mut warnings: Vec<_> = validity(&chain, &tls.certificate).into_iter().collect();
    warnings.extend(lists.warnings);
    let not_after = expiry(&chain).unwrap_or_default();
    let builder = match verifier {
        None => builder.with_no_client_auth(),
        Some(verifier) => builder.with_client_cert_verifier(verifier),
    };
    let own = CertifiedKey::from_der(chain, key, &provider)
        .map_err(|error| vec![mismatch(&tls.certificate, &tls.key, &error)])?;
    let mut config = builder.with_cert_resolver(Arc::new(Names {
        own: Arc::new(own),
        named,
    }));
    match ring::Ticketer::new() {
        Ok(ticketer) => config.ticketer = ticketer,
        Err(error) => {
            return Err(vec![fault(
                Code::TlsContent,
                "certificate",
                format!("no randomness for session tickets: {error}"),
            )]);
        }
    }
    Ok(Loaded {
        config: Arc::new(config),
        not_after,
        fingerprint,
        revoked: Arc::new(lists.revoked),
        warnings,
    })
}

/// Files that are not there count as empty: their fault is found elsewhere.
fn fingerprint(tls: &TlsConfig) -> Fingerprint {
    let mut digest = Context::new(&SHA256);
    for path in tls.files() {
        let content = std::fs::read(path).unwrap_or_default();
        digest.update(&content.len().to_le_bytes());
        digest.update(&content);
    }
    digest.update(&[tls.client_auth as u8, tls.min_version as u8]);
    for name in tls.sni.iter().flat_map(|sni| &sni.names) {
        digest.update(name.as_bytes());
        digest.update(&[0]);
    }
    let mut fingerprint = Fingerprint::default();
    fingerprint.copy_from_slice(digest.finish().as_ref());
    fingerprint
}

fn expiry(chain: &[CertificateDer<'_>]) -> Option<i64> {
    let (_, certificate) = X509Certificate::from_der(chain.first()?).ok()?;
    Some(certificate.validity().not_after.timestamp())
}

fn keep<T>(result: Result<T, TlsFault>, faults: &mut Vec<TlsFault>) -> Option<T> {
    result.map_err(|fault| faults.push(fault)).ok()
}

fn fault(code: Code, key: &'static str, text: impl Into<String>) -> TlsFault {
    TlsFault {
        code,
        key,
        text: text.into(),
    }
}

fn read(path: &Path, key: &'static str) -> Result<Vec<u8>, TlsFault> {
    std::fs::read(path).map_err(|error| {
        fault(
            Code::TlsFile,
            key,
            format!("cannot read {}: {error}", path.display()),
        )
    })
}

fn certificates(path: &Path, key: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsFault> {
    let pem = read(path, key)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match certificates {
        Ok(certificates) if certificates.is_empty() => {
            let found = if has(&pem, "PRIVATE KEY") {
                "it holds a private key: are certificate and key exchanged?"
            } else {
                "it must hold a block that begins with -----BEGIN CERTIFICATE-----"
            };
            Err(fault(
                Code::TlsContent,
                key,
                format!(
                    "{} holds no certificate in PEM form: {found}",
                    path.display()
                ),
            ))
        }
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(fault(
            Code::TlsContent,
            key,
            format!("{} is damaged: {error}", path.display()),
        )),
    }
}

fn private_key(path: &Path, name: &'static str) -> Result<PrivateKeyDer<'static>, TlsFault> {
    let pem = read(path, name)?;
    PrivateKeyDer::from_pem_slice(&pem).map_err(|error| {
        let path = path.display();
        let text = if has(&pem, "ENCRYPTED") {
            format!("the private key in {path} is protected by a passphrase: write it without one (openssl pkey -in {path} -out …)")
        } else if has(&pem, "BEGIN CERTIFICATE") {
            format!("{path} holds no private key: it holds a certificate: are certificate and key exchanged?")
        } else {
            format!("{path} holds no private key in PEM form (PKCS#8, PKCS#1 or SEC1): {error}")
        };
        fault(Code::TlsContent, name, text)
    })
}

fn has(pem: &[u8], word: &str) -> bool {
    pem.windows(word.len())
        .any(|window| window == word.as_bytes())
}

type Verifier = Option<Arc<dyn rustls::server::danger::ClientCertVerifier>>;

fn client_verifier(
    tls: &TlsConfig,
    provider: &Arc<CryptoProvider>,
    lists: &Lists,
) -> Result<Verifier, TlsFault> {
    let Some(path) = tls
        .client_ca
        .as_ref()
        .filter(|_| tls.client_auth != ClientAuth::None)
    else {
        return Ok(None);
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path, "client_ca")? {
        roots.add(certificate).map_err(|error| {
            let text = format!(
                "a certificate in {} cannot be an authority: {error}",
                path.display()
            );
            fault(Code::TlsContent, "client_ca", text)
        })?;
    }
    let builder =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    // An authority without a list revokes nothing.
    let builder = match lists.der.is_empty() {
        true => builder,
        false => builder
            .with_crls(lists.der.iter().cloned())
            .allow_unknown_revocation_status(),
    };
    let builder = match tls.client_auth {
        ClientAuth::Optional => builder.allow_unauthenticated(),
        ClientAuth::Required | ClientAuth::None => builder,
    };
    let verifier = builder.build().map_err(|error| {
        fault(
            Code::TlsContent,
            "client_ca",
            format!("{}: {error}", path.display()),
        )
    })?;
    Ok(Some(verifier))
}

fn mismatch(certificate: &Path, key: &Path, error: &rustls::Error) -> TlsFault {
    let (certificate, key) = (certificate.display(), key.display());
    match error {
        rustls::Error::InconsistentKeys(_) => fault(
            Code::TlsMismatch,
            "key",
            format!(
                "the private key in {key} does not belong to the first certificate in {certificate}"
            ),
        ),
        rustls::Error::InvalidCertificate(_) => fault(
            Code::TlsContent,
            "certificate",
            format!("the certificate in {certificate} cannot be used: {error}"),
        ),
        other => fault(
            Code::TlsContent,
            "key",
            format!("the private key in {key} cannot be used: {other}"),
        ),
    }
}

/// Clients will refuse a certificate outside its validity; that is theirs to decide, so a warning.
fn validity(chain: &[CertificateDer<'_>], path: &Path) -> Option<TlsFault> {
    let (_, certificate) = X509Certificate::from_der(chain.first()?).ok()?;
    let validity = certificate.validity();
    let now = ASN1Time::now();
    let text = if validity.not_after < now {
        format!(
            "the certificate in {} has expired on {}: clients will refuse it",
            path.display(),
            validity.not_after
        )
    } else if validity.not_before > now {
        format!(
            "the certificate in {} is valid only from {}: clients will refuse it",
            path.display(),
            validity.not_before
        )
    } else {
        return None;
    };
    Some(fault(Code::TlsValidity, "certificate", text))
}

/// The name in a client's certificate.
///
/// # Errors
/// When the certificate has no such name, or one that cannot be a user name.
pub fn peer_name(certificate: &CertificateDer<'_>, from: NameFrom) -> Result<Arc<str>, String> {
    if from == NameFrom::Fingerprint {
        let digest = ::ring::digest::digest(&SHA256, certificate);
        return Ok(super::hex(digest.as_ref()).into());
    }
    let (_, certificate) = X509Certificate::from_der(certificate)
        .map_err(|error| format!("the certificate cannot be read: {error}"))?;
    let name = match from {
        NameFrom::Fingerprint => String::new(),
        NameFrom::Cn => certificate
            .subject()
            .iter_common_name()
            .find_map(|attribute| attribute.as_str().ok())
            .ok_or("the certificate has no common name")?
            .to_owned(),
        NameFrom::San => certificate
            .subject_alternative_name()
            .map_err(|error| format!("the alternative names cannot be read: {error}"))?
            .and_then(|names| {
                names.value.general_names.iter().find_map(|name| match name {
                    GeneralName::DNSName(name) | GeneralName::RFC822Name(name) | GeneralName::URI(name) => Some(*name),
                    _ => None,
                })
            })
            .ok_or("the certificate has no DNS name, e-mail address or URI among its alternative names")?
            .to_owned(),
    };
    if name.is_empty() || name.len() > MAX_NAME || name.contains(char::is_control) {
        return Err(format!(
            "the name in the certificate must have 1 to {MAX_NAME} bytes and no control characters"
        ));
    }
    Ok(name.into())
}

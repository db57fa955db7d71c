//! What is kept of a client's certificate.

use std::sync::Arc;

use ::ring::digest::{SHA256, digest};
use rustls::pki_types::CertificateDer;
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use crate::config::TenantFrom;
use crate::core::mount;

/// A certificate that a client has shown, and that the TLS handshake has found good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The client's own first, then those of the authorities in between, as DER. Empty once the client is connected.
    pub chain: Box<[CertificateDer<'static>]>,
    /// SHA-256 of the client's own.
    pub sha256: [u8; 32],
    /// Its serial number, in hexadecimal digits.
    pub serial: Box<str>,
    /// The name of the authority that has signed it, as DER.
    pub issuer: Box<[u8]>,
    /// When it expires, in Unix seconds.
    pub not_after: i64,
    /// The tenant in its subject, where the listener takes one from it.
    pub tenant: Option<Arc<str>>,
}

impl ClientCertificate {
    /// The same without the chain, which is some KB: for as long as the connection lasts.
    #[must_use]
    pub fn slim(&self) -> Self {
        Self {
            chain: Box::default(),
            sha256: self.sha256,
            serial: self.serial.clone(),
            issuer: self.issuer.clone(),
            not_after: self.not_after,
            tenant: self.tenant.clone(),
        }
    }

    /// Reads the first of a chain.
    ///
    /// # Errors
    /// When there is none, or it cannot be read.
    pub fn read(chain: &[CertificateDer<'_>]) -> Result<Self, String> {
        let first = chain.first().ok_or("there is no certificate")?;
        let (_, read) = X509Certificate::from_der(first)
            .map_err(|error| format!("the certificate cannot be read: {error}"))?;
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(digest(&SHA256, first).as_ref());
        Ok(Self {
            sha256,
            serial: hex(read.raw_serial()),
            issuer: read.issuer().as_raw().into(),
            not_after: read.validity().not_after.timestamp(),
            tenant: None,
            chain: chain.iter().map(|der| der.clone().into_owned()).collect(),
        })
    }
}

/// The tenant in the subject of a client's certificate.
///
/// # Errors
/// When there is none, more than one, or one that cannot be the name of a tenant.
pub(super) fn tenant(
    certificate: &CertificateDer<'_>,
    from: TenantFrom,
) -> Result<Arc<str>, String> {
    let (_, certificate) = X509Certificate::from_der(certificate)
        .map_err(|error| format!("the certificate cannot be read: {error}"))?;
    let subject = certificate.subject();
    let (mut found, what) = match from {
        TenantFrom::O => (
            subject.iter_organization().collect::<Vec<_>>(),
            "organisation (O)",
        ),
        TenantFrom::Ou => (
            subject.iter_organizational_unit().collect(),
            "organisational unit (OU)",
        ),
    };
    let (Some(only), true) = (found.pop(), found.is_empty()) else {
        return Err(format!(
            "the subject of the certificate must have one {what}, which is the tenant"
        ));
    };
    let name = only
        .as_str()
        .map_err(|error| format!("the {what} in the certificate cannot be read: {error}"))?;
    mount::check_name(name).map_err(|why| format!("the {what} in the certificate: {why}"))?;
    Ok(name.into())
}

/// The digits of bytes, two for each.
pub(crate) fn hex(bytes: &[u8]) -> Box<str> {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a text does not fail.
        let _written = write!(text, "{byte:02x}").is_ok();
    }
    text.into()
}

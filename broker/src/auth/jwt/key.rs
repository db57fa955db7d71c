//! Keys that verify tokens, from PEM and from JWK.

use base64ct::{Base64UrlUnpadded, Encoding};
use ring::digest::{SHA256, digest};
use ring::{hmac, signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, SubjectPublicKeyInfoDer};
use serde_json::Value;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

/// Shortest secret for HS256, in bytes, as RFC 7518 (3.2) has it.
const MIN_SECRET: usize = 32;
/// Shortest modulus for RS256, in bits.
const MIN_RSA_BITS: usize = 2048;
/// And the longest.
const MAX_RSA_BITS: usize = 8192;
/// The curve P-256 as an object identifier.
const P256: &str = "1.2.840.10045.3.1.7";

/// How a token is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// ECDSA with P-256 and SHA-256.
    Es256,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// HMAC with SHA-256.
    Hs256,
}

impl Algorithm {
    /// Its name in a token.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Es256 => "ES256",
            Self::Rs256 => "RS256",
            Self::Hs256 => "HS256",
        }
    }
}

#[derive(Clone)]
enum Kind {
    /// A point, not compressed.
    Ec(Box<[u8]>),
    /// Modulus and exponent.
    Rsa(Box<[u8]>, Box<[u8]>),
    Secret(hmac::Key),
}

/// A key that verifies tokens of one algorithm.
#[derive(Clone)]
pub struct Key {
    id: Option<Box<str>>,
    kind: Kind,
    /// SHA-256 over what it is made of: the same for the same key.
    print: [u8; 32],
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key")
            .field("id", &self.id)
            .field("algorithm", &self.algorithm())
            .finish_non_exhaustive()
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id && self.print == other.print
    }
}

impl Key {
    fn new(kind: Kind, material: &[&[u8]]) -> Self {
        let mut all = Vec::new();
        for part in material {
            all.extend_from_slice(&part.len().to_le_bytes());
            all.extend_from_slice(part);
        }
        let mut print = [0; 32];
        print.copy_from_slice(digest(&SHA256, &all).as_ref());
        Self {
            id: None,
            kind,
            print,
        }
    }

    /// The id that tokens name it by.
    #[must_use]
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// Its id, or a part of its fingerprint: for logs, and to tell what a client was accepted by.
    #[must_use]
    pub fn name(&self) -> Box<str> {
        match &self.id {
            Some(id) => id.clone(),
            None => crate::net::hex(self.print.get(..8).unwrap_or_default()),
        }
    }

    /// What it signs with.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        match self.kind {
            Kind::Ec(_) => Algorithm::Es256,
            Kind::Rsa(..) => Algorithm::Rs256,
            Kind::Secret(_) => Algorithm::Hs256,
        }
    }

    /// Whether it has signed a message.
    #[must_use]
    pub fn has_signed(&self, message: &[u8], by: &[u8]) -> bool {
        match &self.kind {
            Kind::Ec(point) => {
                let key = signature::UnparsedPublicKey::new(
                    &signature::ECDSA_P256_SHA256_FIXED,
                    point.as_ref(),
                );
                key.verify(message, by).is_ok()
            }
            Kind::Rsa(n, e) => {
                let key = signature::RsaPublicKeyComponents { n, e };
                key.verify(&signature::RSA_PKCS1_2048_8192_SHA256, message, by)
                    .is_ok()
            }
            Kind::Secret(key) => hmac::verify(key, message, by).is_ok(),
        }
    }

    /// A secret that is shared with whoever signs.
    ///
    /// # Errors
    /// When it is too short to be one.
    pub fn from_secret(secret: &[u8]) -> Result<Self, String> {
        if secret.len() < MIN_SECRET {
            return Err(format!(
                "the secret has {} bytes: {MIN_SECRET} are the least",
                secret.len()
            ));
        }
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
        Ok(Self::new(Kind::Secret(key), &[secret]))
    }

    /// The keys in a PEM text: public keys, and those of certificates.
    ///
    /// # Errors
    /// When there is none, or one of them cannot be used.
    pub fn from_pem(pem: &[u8]) -> Result<Vec<Self>, String> {
        let unread = |error: rustls::pki_types::pem::Error| format!("the PEM is damaged: {error}");
        let mut keys = Vec::new();
        for der in SubjectPublicKeyInfoDer::pem_slice_iter(pem) {
            keys.push(Self::from_spki_der(&der.map_err(unread)?)?);
        }
        for der in CertificateDer::pem_slice_iter(pem) {
            let der = der.map_err(unread)?;
            let (_, certificate) = X509Certificate::from_der(&der)
                .map_err(|error| format!("the certificate cannot be read: {error}"))?;
            keys.push(Self::from_spki(certificate.public_key())?);
        }
        if keys.is_empty() {
            let has = |word: &[u8]| pem.windows(word.len()).any(|part| part == word);
            return Err(match has(b"PRIVATE KEY-----") {
                true => "it holds a private key: the public one is needed (openssl pkey -pubout)",
                false => "it must hold a block that begins with -----BEGIN PUBLIC KEY----- or -----BEGIN CERTIFICATE-----",
            }
            .to_owned());
        }
        Ok(keys)
    }

    /// A public key in DER form (SubjectPublicKeyInfo).
    ///
    /// # Errors
    /// When it cannot be read, or is of a kind that is not taken.
    pub fn from_spki_der(der: &[u8]) -> Result<Self, String> {
        let (_, read) = SubjectPublicKeyInfo::from_der(der)
            .map_err(|error| format!("the public key cannot be read: {error}"))?;
        Self::from_spki(&read)
    }

    fn from_spki(read: &SubjectPublicKeyInfo<'_>) -> Result<Self, String> {
        match read.parsed() {
            Ok(PublicKey::RSA(key)) => Self::from_rsa(key.modulus, key.exponent),
            Ok(PublicKey::EC(point)) => {
                let curve = read.algorithm.parameters.as_ref();
                let curve = curve.and_then(|curve| curve.as_oid().ok());
                if curve.is_none_or(|curve| curve.to_id_string() != P256) {
                    return Err("the key is of another curve than P-256".to_owned());
                }
                Self::from_point(point.data())
            }
            Ok(_) => Err("the key is neither EC (P-256) nor RSA".to_owned()),
            Err(error) => Err(format!("the public key cannot be read: {error}")),
        }
    }

    fn from_point(point: &[u8]) -> Result<Self, String> {
        if point.len() != 65 || point.first() != Some(&4) {
            return Err("the point of the key is compressed, or has the wrong length".to_owned());
        }
        Ok(Self::new(Kind::Ec(point.into()), &[point]))
    }

    #[cfg(test)]
    pub(super) fn from_point_for_tests(point: &[u8]) -> Self {
        Self::new(Kind::Ec(point.into()), &[point])
    }

    fn from_rsa(n: &[u8], e: &[u8]) -> Result<Self, String> {
        let trim = |bytes: &[u8]| -> Box<[u8]> {
            let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
            bytes.get(zeros..).unwrap_or_default().into()
        };
        let (n, e) = (trim(n), trim(e));
        let bits = n.len() * 8 - n.first().map_or(0, |first| first.leading_zeros() as usize);
        if !(MIN_RSA_BITS..=MAX_RSA_BITS).contains(&bits) {
            return Err(format!(
                "the RSA key has {bits} bits: must be from {MIN_RSA_BITS} to {MAX_RSA_BITS}"
            ));
        }
        let material = [&*n, &*e];
        Ok(Self::new(Kind::Rsa(n.clone(), e.clone()), &material))
    }

    /// The keys in a JWK, or in a set of them (RFC 7517). Of a set those that are for something else, or of kinds that are not taken, are
    /// left out. `secrets`: symmetric keys are taken, too.
    ///
    /// # Errors
    /// When it is neither, or holds no key that can be used.
    pub fn from_jwks(json: &[u8], secrets: bool) -> Result<Vec<Self>, String> {
        let value: Value =
            serde_json::from_slice(json).map_err(|error| format!("it is no JSON: {error}"))?;
        let Some(set) = value.get("keys") else {
            return Self::from_jwk(&value, secrets).map(|key| vec![key]);
        };
        let set = set.as_array().ok_or("\"keys\" is no list")?;
        let mut last = "the set of keys is empty".to_owned();
        let mut keys = Vec::new();
        for jwk in set {
            match Self::from_jwk(jwk, secrets) {
                Ok(key) => keys.push(key),
                Err(fault) => last = fault,
            }
        }
        if keys.is_empty() { Err(last) } else { Ok(keys) }
    }

    fn from_jwk(jwk: &Value, secrets: bool) -> Result<Self, String> {
        let text = |name: &str| jwk.get(name).and_then(Value::as_str);
        let bytes = |name: &str| {
            let text = text(name).ok_or_else(|| format!("the JWK has no {name:?}"))?;
            Base64UrlUnpadded::decode_vec(text.trim_end_matches('='))
                .map_err(|_| format!("{name:?} of the JWK is not base64url"))
        };
        if text("use").is_some_and(|purpose| purpose != "sig") {
            return Err("the JWK is not for signatures".to_owned());
        }
        let mut key = match (text("kty"), text("crv")) {
            (Some("EC"), Some("P-256")) => {
                let mut point = vec![4];
                point.extend(bytes("x")?);
                point.extend(bytes("y")?);
                Self::from_point(&point)?
            }
            (Some("RSA"), _) => Self::from_rsa(&bytes("n")?, &bytes("e")?)?,
            (Some("oct"), _) if secrets => Self::from_secret(&bytes("k")?)?,
            (kty, crv) => {
                return Err(format!(
                    "a JWK of kind {:?} {:?} is not taken",
                    kty.unwrap_or_default(),
                    crv.unwrap_or_default()
                ));
            }
        };
        if text("alg").is_some_and(|alg| alg != key.algorithm().as_str()) {
            return Err("the JWK is for an algorithm that is not taken".to_owned());
        }
        key.id = text("kid").map(Into::into);
        Ok(key)
    }
}

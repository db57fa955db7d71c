//! What a device shows: a key that its tokens are signed by, or a certificate.

use base64ct::{Base64, Encoding};
use ring::digest::{SHA256, digest};
use rustls::pki_types::{CertificateDer, SubjectPublicKeyInfoDer, pem::PemObject};
use serde::{Deserialize, Serialize};
use x509_parser::{
    certificate::X509Certificate, prelude::FromDer, public_key::PublicKey as Parsed,
    x509::SubjectPublicKeyInfo,
};

use super::device::{Invalid, check_name};

/// Longest id of a credential, in bytes.
pub const CREDENTIAL_ID_MAX: usize = 64;
/// Longest PEM text of a key or certificate, in bytes.
pub const PEM_MAX: usize = 8 * 1024;
/// Longest serial number of a certificate, in bytes (RFC 5280, 4.1.2.2).
const SERIAL_MAX: usize = 20;
/// Bits of an RSA key.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2_048..=8_192;

/// How the tokens of a key are signed. It follows from the key, never from the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// RSA PKCS #1 v1.5 with SHA-256.
    Rs256,
}

impl Algorithm {
    /// As tokens name it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Es256 => "ES256",
            Self::Rs256 => "RS256",
        }
    }
}

/// A public key as `ring` takes it: an uncompressed point, or an `RSAPublicKey` in DER.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    /// How its tokens are signed.
    pub algorithm: Algorithm,
    /// Its bytes.
    pub bytes: Box<[u8]>,
}

/// What is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Shown {
    /// Tokens signed by the private key to this public key (`SubjectPublicKeyInfo`, DER in base64).
    #[serde(rename = "k")]
    Key(String),
    /// The certificate with this SHA-256 (64 hexadecimal digits, small letters).
    #[serde(rename = "f")]
    Fingerprint(String),
    /// The certificate of this issuer and serial number: SHA-256 of the issuer's name in DER, a colon, the serial number;
    /// both hexadecimal in small letters.
    #[serde(rename = "n")]
    Issued(String),
}

/// One credential of a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credential {
    /// Its id within the device.
    #[serde(rename = "i")]
    pub id: String,
    /// What is shown.
    #[serde(flatten)]
    pub shown: Shown,
    /// From when on it is good, in Unix seconds.
    #[serde(rename = "b", default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<u64>,
    /// Until when it is good, in Unix seconds.
    #[serde(rename = "e", default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<u64>,
}

impl Credential {
    /// Tells what is shown from anything else that may be shown under the same id.
    pub(crate) fn print(&self) -> u64 {
        let (Shown::Key(text) | Shown::Fingerprint(text) | Shown::Issued(text)) = &self.shown;
        let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
        let first = digest.as_ref().first_chunk::<8>();
        first.map_or(0, |first| u64::from_le_bytes(*first))
    }

    /// Checks every bound; `field` is where it is.
    pub(crate) fn check(&self, field: &str) -> Result<(), Invalid> {
        check_name(&format!("{field}.id"), &self.id, CREDENTIAL_ID_MAX)?;
        if let (Some(from), Some(until)) = (self.not_before, self.expires_at)
            && from >= until
        {
            let text = format!("is {until}, not after not_before, {from}");
            return Err(Invalid::new(format!("{field}.expires_at"), text));
        }
        Ok(())
    }

    /// Whether it is good at this time, in Unix seconds.
    #[must_use]
    pub fn is_good(&self, now: u64) -> bool {
        self.not_before.is_none_or(|from| from <= now)
            && self.expires_at.is_none_or(|until| now < until)
    }

    /// The public key as `SubjectPublicKeyInfo` in DER; `None`: it is about a certificate.
    #[must_use]
    pub fn key_der(&self) -> Option<Vec<u8>> {
        match &self.shown {
            Shown::Key(text) => Base64::decode_vec(text).ok(),
            _ => None,
        }
    }

    /// The public key; `None`: it is about a certificate.
    #[must_use]
    pub fn public_key(&self) -> Option<PublicKey> {
        let Shown::Key(text) = &self.shown else {
            return None;
        };
        let der = Base64::decode_vec(text).ok()?;
        read_key(&der).ok()
    }
}

impl Shown {
    /// What its record in the table `credential` is named; `None`: a key, which is found by the device alone.
    #[must_use]
    pub fn index(&self) -> Option<String> {
        match self {
            Self::Key(_) => None,
            Self::Fingerprint(hex) => Some(format!("f:{hex}")),
            Self::Issued(text) => Some(format!("n:{text}")),
        }
    }

    /// From PEM: a public key, or a certificate whose key it is to be (as IoT Core's `ES256_X509_PEM`).
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn key_from_pem(pem: &str) -> Result<Self, String> {
        bounded(pem)?;
        let der = if pem.contains("-----BEGIN CERTIFICATE-----") {
            let certificate = certificate_from_pem(pem)?;
            let (_, certificate) = X509Certificate::from_der(&certificate)
                .map_err(|error| format!("the certificate is damaged: {error}"))?;
            certificate.public_key().raw.to_vec()
        } else if pem.contains("PRIVATE KEY-----") {
            return Err(
                "this is a private key, which stays with the device: give the public key (openssl pkey -pubout)".to_owned(),
            );
        } else {
            let key = SubjectPublicKeyInfoDer::from_pem_slice(pem.as_bytes()).map_err(|_| {
                "must be PEM that begins with -----BEGIN PUBLIC KEY----- or -----BEGIN CERTIFICATE-----".to_owned()
            })?;
            key.as_ref().to_vec()
        };
        read_key(&der)?;
        Ok(Self::Key(Base64::encode_string(&der)))
    }

    /// The certificate in PEM, by its fingerprint; also when it ends to be valid, in Unix seconds.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn fingerprint_from_pem(pem: &str) -> Result<(Self, u64), String> {
        bounded(pem)?;
        let der = certificate_from_pem(pem)?;
        let (_, certificate) = X509Certificate::from_der(&der)
            .map_err(|error| format!("the certificate is damaged: {error}"))?;
        let until = certificate.validity().not_after.timestamp();
        let until = u64::try_from(until).unwrap_or_default();
        Ok((Self::of_certificate(&der), until))
    }

    /// The fingerprint of a certificate in DER.
    #[must_use]
    pub fn of_certificate(der: &[u8]) -> Self {
        Self::Fingerprint(hex(digest(&SHA256, der).as_ref()))
    }

    /// By issuer and serial number of a certificate in DER; `None` when it cannot be read.
    #[must_use]
    pub fn issued(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let issuer = digest(&SHA256, certificate.issuer().as_raw());
        let serial = certificate.raw_serial();
        Some(Self::Issued(format!(
            "{}:{}",
            hex(issuer.as_ref()),
            hex(serial)
        )))
    }

    /// A fingerprint as it is written by people: hexadecimal digits, colons allowed.
    ///
    /// # Errors
    /// Anything but 32 bytes.
    pub fn fingerprint_from_hex(text: &str) -> Result<Self, String> {
        let digits = normal_hex(text);
        if digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            Ok(Self::Fingerprint(digits))
        } else {
            Err(
                "must be a SHA-256: 64 hexadecimal digits (openssl x509 -fingerprint -sha256)"
                    .to_owned(),
            )
        }
    }

    /// An issuer by a fingerprint of its name (SHA-256 of the DER), and a serial number.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn issued_from_hex(issuer: &str, serial: &str) -> Result<Self, String> {
        let (issuer, serial) = (normal_hex(issuer), normal_hex(serial));
        let hexadecimal = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if issuer.len() != 64 || !hexadecimal(&issuer) {
            return Err(
                "the issuer must be the SHA-256 of its name in DER: 64 hexadecimal digits"
                    .to_owned(),
            );
        }
        if serial.is_empty()
            || serial.len() > 2 * SERIAL_MAX + 2
            || serial.len() % 2 != 0
            || !hexadecimal(&serial)
        {
            return Err(format!(
                "the serial number must be hexadecimal digits, two for a byte, {SERIAL_MAX} bytes at the most"
            ));
        }
        Ok(Self::Issued(format!("{issuer}:{serial}")))
    }
}

fn bounded(pem: &str) -> Result<(), String> {
    if pem.len() > PEM_MAX {
        return Err(format!("{} bytes: {PEM_MAX} at the most", pem.len()));
    }
    Ok(())
}

fn certificate_from_pem(pem: &str) -> Result<CertificateDer<'static>, String> {
    CertificateDer::from_pem_slice(pem.as_bytes())
        .map_err(|_| "must be PEM that begins with -----BEGIN CERTIFICATE-----".to_owned())
}

/// The key in a `SubjectPublicKeyInfo`, when it is one that tokens are signed by here.
pub(crate) fn read_key(der: &[u8]) -> Result<PublicKey, String> {
    let (rest, info) = SubjectPublicKeyInfo::from_der(der)
        .map_err(|error| format!("the key is damaged: {error}"))?;
    if !rest.is_empty() {
        return Err("bytes follow the key".to_owned());
    }
    let curve = info
        .algorithm
        .parameters
        .as_ref()
        .and_then(|parameters| parameters.as_oid().ok());
    let algorithm = match info
        .parsed()
        .map_err(|error| format!("the key is damaged: {error}"))?
    {
        Parsed::EC(point) if point.key_size() == 256 && point.data().first() == Some(&4) => {
            // Other curves of 256 bits exist.
            if curve != Some(x509_parser::oid_registry::OID_EC_P256) {
                return Err("the curve is not P-256: ES256 needs prime256v1".to_owned());
            }
            Algorithm::Es256
        }
        Parsed::EC(_) => {
            return Err(
                "the curve is not P-256: ES256 needs prime256v1, not compressed".to_owned(),
            );
        }
        Parsed::RSA(key) if RSA_BITS.contains(&key.key_size()) => Algorithm::Rs256,
        Parsed::RSA(key) => {
            return Err(format!(
                "an RSA key of {} bits: from {} to {} of them",
                key.key_size(),
                RSA_BITS.start(),
                RSA_BITS.end()
            ));
        }
        _ => return Err("neither a P-256 nor an RSA key".to_owned()),
    };
    Ok(PublicKey {
        algorithm,
        bytes: info.subject_public_key.data.as_ref().into(),
    })
}

fn normal_hex(text: &str) -> String {
    text.chars()
        .filter(|c| *c != ':')
        .map(|c| c.to_ascii_lowercase())
        .collect()
}

/// Hexadecimal digits in small letters.
#[must_use]
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes
        .iter()
        .fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
            // Text never refuses.
            write!(text, "{byte:02x}").unwrap_or_default();
            text
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{
        CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519,
    };

    #[test]
    fn a_p_256_key_is_taken_alone_and_out_of_a_certificate() {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let shown = Shown::key_from_pem(&pair.public_key_pem()).unwrap();
        let credential = Credential {
            id: "k".to_owned(),
            shown: shown.clone(),
            not_before: None,
            expires_at: Some(10),
        };
        let key = credential.public_key().unwrap();
        assert_eq!((key.algorithm, key.bytes.len()), (Algorithm::Es256, 65));
        assert!(credential.is_good(9) && !credential.is_good(10));
        let certificate = CertificateParams::new(vec!["a".to_owned()])
            .unwrap()
            .self_signed(&pair)
            .unwrap();
        assert_eq!(Shown::key_from_pem(&certificate.pem()), Ok(shown));
        let (fingerprint, _) = Shown::fingerprint_from_pem(&certificate.pem()).unwrap();
        let Shown::Fingerprint(digits) = &fingerprint else {
            panic!("{fingerprint:?}")
        };
        let written = digits.to_uppercase();
        assert_eq!(
            Shown::fingerprint_from_hex(&written),
            Ok(fingerprint.clone())
        );
        let json = serde_json::to_string(&credential).unwrap();
        assert_eq!(
            serde_json::from_str::<Credential>(&json).unwrap(),
            credential
        );
    }

    #[test]
    fn other_keys_are_refused_in_clear_words() {
        for algorithm in [&PKCS_ECDSA_P384_SHA384, &PKCS_ED25519] {
            let pair = KeyPair::generate_for(algorithm).unwrap();
            let words = Shown::key_from_pem(&pair.public_key_pem()).unwrap_err();
            assert!(words.contains("P-256"), "{words}");
        }
        let pair = KeyPair::generate().unwrap();
        let words = Shown::key_from_pem(&pair.serialize_pem()).unwrap_err();
        assert!(words.contains("stays with the device"), "{words}");
        for pem in [
            "",
            "hello",
            "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
        ] {
            assert!(Shown::key_from_pem(pem).is_err(), "{pem}");
        }
        assert!(
            Shown::key_from_pem(&"x".repeat(PEM_MAX + 1))
                .unwrap_err()
                .contains("at the most")
        );
    }

    #[test]
    fn a_certificate_is_found_by_its_issuer_and_serial_number() {
        let pair = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec!["a".to_owned()])
            .unwrap()
            .self_signed(&pair)
            .unwrap();
        let Some(Shown::Issued(text)) = Shown::issued(certificate.der()) else {
            panic!("it is readable")
        };
        let (issuer, serial) = text.split_once(':').unwrap();
        assert_eq!(
            Shown::issued_from_hex(issuer, serial),
            Ok(Shown::Issued(text.clone()))
        );
        assert_eq!(Shown::issued(b"no certificate"), None);
        assert!(
            Shown::issued_from_hex("00", serial).is_err()
                && Shown::issued_from_hex(issuer, "0").is_err()
        );
    }
}

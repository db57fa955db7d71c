//! Our certificate authority: signs what a device asks for, with a subject of ours.

use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{
    CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SerialNumber,
};
use ring::rand::{SecureRandom, SystemRandom};

use crate::registry::credential::{PEM_MAX, read_key};

/// How far the clock of whoever looks at a new certificate may be behind.
const BEFORE: Duration = Duration::from_secs(300);

/// A request for a certificate whose signature is right and whose key is one that we take.
pub(crate) struct Csr(CertificateSigningRequestParams);

impl Csr {
    /// Reads PEM. The device has the private key to it: that is what the signature says.
    pub(crate) fn read(pem: &str) -> Result<Self, String> {
        if pem.len() > PEM_MAX {
            return Err(format!("{} bytes: {PEM_MAX} at the most", pem.len()));
        }
        let csr = CertificateSigningRequestParams::from_pem(pem)
            .map_err(|error| format!("must be PEM that begins with -----BEGIN CERTIFICATE REQUEST-----, signed by its own key: {error}"))?;
        read_key(&csr.public_key.subject_public_key_info())?;
        Ok(Self(csr))
    }

    /// The key, as a `SubjectPublicKeyInfo`.
    pub(crate) fn key(&self) -> Vec<u8> {
        self.0.public_key.subject_public_key_info()
    }
}

/// A certificate that was made.
pub(crate) struct Issued {
    pub(crate) pem: String,
    /// Unix seconds.
    pub(crate) not_after: u64,
}

/// The blocks of a PEM file that have this label, and nothing of what is around them.
fn blocks(pem: &str, label: &str) -> String {
    let (begin, end) = (
        format!("-----BEGIN {label}-----"),
        format!("-----END {label}-----"),
    );
    pem.split(&begin)
        .skip(1)
        .filter_map(|rest| rest.split_once(&end))
        .flat_map(|(body, _)| [&begin, body, &end, "\n"])
        .collect()
}

/// The authority.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// The authority's own certificate, and those above it.
    pub(crate) chain: String,
    validity: Duration,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

impl Authority {
    /// Reads certificate and key, both PEM. They may be one file: to devices go its certificates alone.
    ///
    /// # Errors
    /// The key of the configuration, and what is wrong with its file.
    pub(crate) fn load(
        certificate: &Path,
        key: &Path,
        validity: Duration,
    ) -> Result<Self, (&'static str, String)> {
        const OF: [&str; 2] = ["provisioning.ca_certificate", "provisioning.ca_key"];
        let read = |of: usize, path: &Path| {
            std::fs::read_to_string(path)
                .map_err(|error| (OF[of], format!("cannot read {}: {error}", path.display())))
        };
        let whole = zeroize::Zeroizing::new(read(0, certificate)?);
        let chain = blocks(&whole, "CERTIFICATE");
        let pair = zeroize::Zeroizing::new(read(1, key)?);
        let own = zeroize::Zeroizing::new(blocks(&pair, "PRIVATE KEY"));
        let shown = key.display();
        let pair = KeyPair::from_pem(&own).map_err(|error| {
            let text = match pair.contains("BEGIN EC PRIVATE KEY")
                || pair.contains("BEGIN RSA PRIVATE KEY")
            {
                true => format!(
                    "the private key in {shown} must have the form PKCS#8: openssl pkcs8 -topk8 -nocrypt -in {shown} -out …"
                ),
                false => format!("{shown} holds no private key that can sign: {error}"),
            };
            (OF[1], text)
        })?;
        let issuer = Issuer::from_ca_cert_pem(&chain, pair).map_err(|error| {
            let text = format!("{} holds no authority: {error}", certificate.display());
            (OF[0], text)
        })?;
        Ok(Self {
            issuer,
            chain,
            validity,
        })
    }

    /// Signs. Of the request nothing is taken over but the key: subject, names and uses are ours.
    pub(crate) fn sign(
        &self,
        csr: &Csr,
        device: &str,
        tenant: Option<&str>,
    ) -> Result<Issued, String> {
        let mut name = DistinguishedName::new();
        name.push(DnType::CommonName, device);
        if let Some(tenant) = tenant {
            name.push(DnType::OrganizationName, tenant);
        }
        let mut serial = [0; 16];
        SystemRandom::new()
            .fill(&mut serial)
            .map_err(|_| "the system gives no randomness".to_owned())?;
        // Positive, and never with a zero in front.
        serial[0] = serial[0] & 0x7f | 0x40;
        let now = SystemTime::now();
        let mut params = CertificateParams::default();
        params.distinguished_name = name;
        params.is_ca = IsCa::NoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.not_before = (now - BEFORE).into();
        params.not_after = (now + self.validity).into();
        let made = params
            .signed_by(&csr.0.public_key, &self.issuer)
            .map_err(|error| error.to_string())?;
        let not_after = (now + self.validity)
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        Ok(Issued {
            pem: made.pem(),
            not_after,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As where one secret has both, so that they change at once.
    #[test]
    fn certificate_and_key_may_be_one_file_and_the_key_is_never_handed_out() {
        let pair = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&pair).unwrap().pem();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.pem");
        for text in [
            format!("# ours\n{certificate}{certificate}{}", pair.serialize_pem()),
            format!("{}{certificate}{certificate}", pair.serialize_pem()),
        ] {
            std::fs::write(&file, text).unwrap();
            let authority = Authority::load(&file, &file, BEFORE).unwrap();
            assert!(!authority.chain.contains("PRIVATE KEY"));
            assert_eq!(authority.chain.matches(certificate.trim_end()).count(), 2);
            let request =
                CertificateParams::default().serialize_request(&KeyPair::generate().unwrap());
            let csr = Csr::read(&request.unwrap().pem().unwrap()).unwrap();
            authority.sign(&csr, "pump-7", None).unwrap();
        }
    }
}

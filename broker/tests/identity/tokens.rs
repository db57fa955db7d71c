//! Tokens, signed as their issuers would.

use std::{fs, path::Path, process::Command, time::SystemTime};

use base64ct::{Base64UrlUnpadded, Encoding};
use ring::{
    hmac,
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
        RsaPublicKeyComponents,
    },
};
use rustls::pki_types::{PrivatePkcs8KeyDer, pem::PemObject};

pub fn now() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs()
}

/// Signs tokens.
pub enum Signer {
    Es256(Box<EcdsaKeyPair>),
    Rs256(Box<RsaKeyPair>),
    Hs256(hmac::Key),
}

pub fn encode(bytes: impl AsRef<[u8]>) -> String {
    Base64UrlUnpadded::encode_string(bytes.as_ref())
}

impl Signer {
    /// A key on P-256.
    pub fn es256() -> Self {
        let random = SystemRandom::new();
        let made = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let key =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, made.as_ref(), &random);
        Self::Es256(Box::new(key.unwrap()))
    }

    /// A key on P-256, and its public key as PEM.
    pub fn es256_with_pem() -> (Self, String) {
        let pair = rcgen::KeyPair::generate().unwrap();
        let random = SystemRandom::new();
        let der = pair.serialize_der();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &der, &random);
        (Self::Es256(Box::new(key.unwrap())), pair.public_key_pem())
    }

    /// An RSA key, made by openssl; its public key is in `<name>.pub`.
    pub fn rs256(folder: &Path, name: &str) -> Self {
        let file = folder.join(format!("{name}.pem"));
        let made = Command::new("openssl")
            .args([
                "genpkey",
                "-algorithm",
                "RSA",
                "-pkeyopt",
                "rsa_keygen_bits:2048",
                "-out",
            ])
            .arg(&file)
            .output()
            .expect("openssl runs");
        assert!(made.status.success(), "{made:?}");
        let shown = Command::new("openssl")
            .args(["pkey", "-pubout", "-in"])
            .arg(&file)
            .arg("-out")
            .arg(folder.join(format!("{name}.pub")))
            .output()
            .unwrap();
        assert!(shown.status.success(), "{shown:?}");
        let der = PrivatePkcs8KeyDer::from_pem_slice(&fs::read(&file).unwrap()).unwrap();
        Self::Rs256(Box::new(
            RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()).unwrap(),
        ))
    }

    pub fn hs256(secret: &[u8]) -> Self {
        Self::Hs256(hmac::Key::new(hmac::HMAC_SHA256, secret))
    }

    fn alg(&self) -> &'static str {
        match self {
            Self::Es256(_) => "ES256",
            Self::Rs256(_) => "RS256",
            Self::Hs256(_) => "HS256",
        }
    }

    /// Its public key as a JWK.
    pub fn jwk(&self, id: &str) -> String {
        match self {
            Self::Es256(key) => {
                let point = key.public_key().as_ref();
                format!(
                    r#"{{"kty":"EC","crv":"P-256","kid":"{id}","x":"{}","y":"{}"}}"#,
                    encode(&point[1..33]),
                    encode(&point[33..])
                )
            }
            Self::Rs256(key) => {
                let RsaPublicKeyComponents { n, e } =
                    RsaPublicKeyComponents::<Vec<u8>>::from(key.public());
                format!(
                    r#"{{"kty":"RSA","use":"sig","alg":"RS256","kid":"{id}","n":"{}","e":"{}"}}"#,
                    encode(n),
                    encode(e)
                )
            }
            Self::Hs256(_) => panic!("a secret is not shown"),
        }
    }

    /// A token for `sub`, good until then.
    pub fn token(&self, id: Option<&str>, sub: &str, exp: u64) -> String {
        self.sign(
            id,
            &format!(
                r#"{{"sub":"{sub}","aud":"dunlin","iat":{},"exp":{exp}}}"#,
                now()
            ),
        )
    }

    pub fn sign(&self, id: Option<&str>, claims: &str) -> String {
        let id = id.map(|id| format!(r#","kid":"{id}""#)).unwrap_or_default();
        let header = format!(r#"{{"typ":"JWT","alg":"{}"{id}}}"#, self.alg());
        let signed = format!("{}.{}", encode(header), encode(claims));
        let random = SystemRandom::new();
        let signature = match self {
            Self::Es256(key) => key
                .sign(&random, signed.as_bytes())
                .unwrap()
                .as_ref()
                .to_vec(),
            Self::Rs256(key) => {
                let mut out = vec![0; key.public().modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &random, signed.as_bytes(), &mut out)
                    .unwrap();
                out
            }
            Self::Hs256(key) => hmac::sign(key, signed.as_bytes()).as_ref().to_vec(),
        };
        format!("{signed}.{}", encode(signature))
    }
}

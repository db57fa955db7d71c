//! Certificates of the day: an authority, a server, a client.

use std::{fs, path::Path};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};

/// Writes `ca.pem`, `server.pem`, `server.key`, `client.pem`, `client.key` and `other-ca.pem` into `dir`. The server's
/// certificate is for localhost and 127.0.0.1, the client's common name is `name`.
pub(crate) fn write(dir: &Path, name: &str) {
    let (authority, issuer) = make_authority("Dunlin test authority");
    let (other, _) = make_authority("Another authority");
    let put = |file: &str, text: String| {
        fs::write(dir.join(file), text).expect("a certificate can be written");
    };
    put("ca.pem", authority);
    put("other-ca.pem", other);
    for (file, common_name) in [("server", "localhost"), ("client", name)] {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).expect("parameters");
        params
            .subject_alt_names
            .push(SanType::IpAddress([127, 0, 0, 1].into()));
        params
            .distinguished_name
            .push(DnType::CommonName, common_name);
        let certificate = params.signed_by(&key, &issuer).expect("a certificate");
        put(&format!("{file}.pem"), certificate.pem());
        put(&format!("{file}.key"), key.serialize_pem());
    }
}

fn make_authority(name: &str) -> (String, Issuer<'static, KeyPair>) {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(Vec::new()).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    let certificate = params.self_signed(&key).expect("a certificate");
    (certificate.pem(), Issuer::new(params, key))
}

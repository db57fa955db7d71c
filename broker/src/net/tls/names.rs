//! Which certificate is shown to whom.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer};

use super::{TlsFault, certificates, fault, keep, mismatch, private_key};
use crate::config::SniConfig;
use crate::error::Code;

/// The certificates of a listener.
#[derive(Debug)]
pub(super) struct Names {
    /// For whoever asks for no name, or for one that no other has.
    pub(super) own: Arc<CertifiedKey>,
    /// By host name in small letters; `*.` at the beginning stands for one label.
    pub(super) named: HashMap<Box<str>, Arc<CertifiedKey>>,
}

impl Names {
    fn of(&self, name: &str) -> &Arc<CertifiedKey> {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let named = self.named.get(&*name).or_else(|| {
            let (_, rest) = name.split_once('.')?;
            self.named.get(&*format!("*.{rest}"))
        });
        named.unwrap_or(&self.own)
    }
}

impl ResolvesServerCert for Names {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(
            hello.server_name().map_or(&self.own, |name| self.of(name)),
        ))
    }
}

/// Reads the certificates for other names.
pub(super) fn load(
    entries: &[SniConfig],
    provider: &CryptoProvider,
    faults: &mut Vec<TlsFault>,
) -> HashMap<Box<str>, Arc<CertifiedKey>> {
    let mut named = HashMap::new();
    for entry in entries {
        let chain = keep(certificates(&entry.certificate, "sni"), faults);
        let key = keep(private_key(&entry.key, "sni"), faults);
        let (Some(chain), Some(key)) = (chain, key) else {
            continue;
        };
        let names = match entry.names.is_empty() {
            true => chain
                .first()
                .map(|first| names_in(first))
                .unwrap_or_default(),
            false => entry.names.clone(),
        };
        if names.is_empty() {
            let text = format!(
                "{} names no host: add names = [\"…\"]",
                entry.certificate.display()
            );
            faults.push(fault(Code::TlsContent, "sni", text));
        }
        match CertifiedKey::from_der(chain, key, provider) {
            Ok(certified) => {
                let certified = Arc::new(certified);
                for name in names {
                    let name = name.trim_end_matches('.').to_ascii_lowercase();
                    if named
                        .insert(name.as_str().into(), Arc::clone(&certified))
                        .is_some()
                    {
                        let text = format!("two certificates are for the name {name:?}");
                        faults.push(fault(Code::TlsContent, "sni", text));
                    }
                }
            }
            Err(error) => {
                let mut found = mismatch(&entry.certificate, &entry.key, &error);
                found.key = "sni";
                faults.push(found);
            }
        }
    }
    named
}

/// The host names in a certificate.
fn names_in(der: &[u8]) -> Vec<String> {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else {
        return Vec::new();
    };
    let names = certificate.subject_alternative_name().ok().flatten();
    let names = names.iter().flat_map(|names| &names.value.general_names);
    let names = names.filter_map(|name| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        _ => None,
    });
    names.collect()
}

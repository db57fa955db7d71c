//! Lists of certificates that their authorities have revoked (CRL).

use std::path::{Path, PathBuf};

use rustls::pki_types::{CertificateRevocationListDer, pem::PemObject};
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;
use x509_parser::time::ASN1Time;

use super::{TlsFault, fault, has, read};
use crate::auth::Revoked;
use crate::error::Code;

/// What the lists of a listener have.
#[derive(Debug, Default)]
pub(super) struct Lists {
    pub(super) der: Vec<CertificateRevocationListDer<'static>>,
    pub(super) revoked: Revoked,
    pub(super) warnings: Vec<TlsFault>,
}

/// Reads lists; a list that is older than it says it may be still revokes what it has.
pub(super) fn load(paths: &[PathBuf], faults: &mut Vec<TlsFault>) -> Lists {
    let mut lists = Lists::default();
    for path in paths {
        if let Err(fault) = add(&mut lists, path) {
            faults.push(fault);
        }
    }
    lists
}

fn add(lists: &mut Lists, path: &Path) -> Result<(), TlsFault> {
    let content = read(path, "crl")?;
    let shown = path.display();
    let wrong = |text: String| fault(Code::TlsContent, "crl", text);
    let all: Vec<CertificateRevocationListDer<'static>> = if has(&content, "-----BEGIN") {
        let all = CertificateRevocationListDer::pem_slice_iter(&content).collect::<Result<_, _>>();
        all.map_err(|error| wrong(format!("{shown} is damaged: {error}")))?
    } else {
        vec![content.into()]
    };
    if all.is_empty() {
        return Err(wrong(format!(
            "{shown} holds no list of revoked certificates: it must hold a block that begins with -----BEGIN X509 CRL-----"
        )));
    }
    for der in all {
        let (_, list) = CertificateRevocationList::from_der(&der).map_err(|error| {
            wrong(format!(
                "{shown} holds no list of revoked certificates: {error}"
            ))
        })?;
        let issuer: Box<[u8]> = list.issuer().as_raw().into();
        for revoked in list.iter_revoked_certificates() {
            let serial = crate::net::hex(revoked.raw_serial());
            lists.revoked.insert((issuer.clone(), serial));
        }
        if list
            .next_update()
            .is_some_and(|next| next < ASN1Time::now())
        {
            let text = format!(
                "the list of revoked certificates in {shown} is out of date: what was revoked since is not known"
            );
            lists.warnings.push(fault(Code::TlsValidity, "crl", text));
        }
        lists.der.push(der);
    }
    Ok(())
}

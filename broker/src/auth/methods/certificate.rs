//! The name in the client's certificate, on listeners that take it from there.

use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use super::People;
use crate::auth::{Authenticator, Credential, Credentials, Method, Principal, Verdict};

/// Accepts the name of a certificate: the TLS handshake has verified that it is the client's.
#[derive(Debug)]
pub struct Certificate(pub Arc<People>);

impl Authenticator for Certificate {
    fn method(&self) -> Method {
        Method::Certificate
    }

    fn authenticate<'a>(&'a self, credentials: &'a Credentials) -> BoxFuture<'a, Verdict> {
        let Some(name) = &credentials.tls_name else {
            return std::future::ready(Verdict::Skip).boxed();
        };
        let mut principal = Principal::new(Method::Certificate, Some(Arc::clone(name)));
        if let Some(certificate) = &credentials.certificate {
            principal.credential = Some(Credential::Certificate {
                sha256: certificate.sha256,
                serial: certificate.serial.clone(),
            });
        }
        self.0.dress(&mut principal);
        std::future::ready(Verdict::Accept(Arc::new(principal))).boxed()
    }
}

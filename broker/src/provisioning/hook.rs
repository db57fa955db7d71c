//! A service of the operator's own that is asked about each request.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::Deserialize;

use super::{Bootstrap, Provisioner, Refusal, Request};

/// What a validation hook says.
#[derive(Debug, Deserialize)]
pub(super) struct Said {
    pub(super) result: String,
    #[serde(default)]
    pub(super) attributes: BTreeMap<String, String>,
    /// PEM: of an authority that the hook asks in place of ours.
    #[serde(default)]
    pub(super) certificate: Option<String>,
}

impl Provisioner {
    pub(super) async fn ask_hook(
        &self,
        who: &Bootstrap,
        request: &Request,
        peer: SocketAddr,
    ) -> Result<Option<Said>, Refusal> {
        let Some(hook) = &self.hook else {
            return Ok(None);
        };
        let question = serde_json::json!({
            "serial": request.serial,
            "tenant": who.tenant,
            "bootstrap": who.name,
            "peer": peer.ip().to_string(),
            "csr": request.csr,
            "public_key": request.public_key,
            "attributes": request.attributes,
        });
        let kind = hyper::header::HeaderValue::from_static("application/json");
        let headers = [(hyper::header::CONTENT_TYPE, kind)];
        let answer = hook
            .send(
                hyper::Method::POST,
                "",
                &headers,
                question.to_string().into(),
            )
            .await;
        let answer = answer
            .map_err(|error| Refusal::Unavailable(format!("the validation hook: {error}")))?;
        if !answer.status.is_success() {
            return Err(Refusal::Unavailable(format!(
                "the validation hook says {}",
                answer.status
            )));
        }
        let said: Said = serde_json::from_slice(&answer.body).map_err(|error| {
            Refusal::Unavailable(format!(
                "the validation hook's answer cannot be used: {error}"
            ))
        })?;
        if said.result == "allow" {
            Ok(Some(said))
        } else {
            Err(Refusal::Forbidden(
                "the validation hook refuses this serial number",
            ))
        }
    }
}

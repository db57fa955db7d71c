//! The files that `[provisioning]` names: read with the configuration, so that what is wrong with them is told before a port is bound.

use super::authority::Authority;
use super::method::Bootstraps;
use crate::auth::jwt::Key;
use crate::config::ProvisioningConfig;
use crate::error::Code;
use crate::http::HttpClient;

/// Bytes of the answer of a hook.
const ANSWER_MAX: usize = 64 * 1024;

/// What the files hold.
#[derive(Debug)]
pub(crate) struct Files {
    pub(super) keys: Vec<Key>,
    pub(super) authority: Option<Authority>,
    pub(super) hook: Option<HttpClient>,
    pub(super) mqtt: Option<Bootstraps>,
}

/// What is wrong with one of them.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) code: Code,
    /// The key of the configuration.
    pub(crate) key: &'static str,
    pub(crate) text: String,
}

impl Files {
    /// Reads them.
    ///
    /// # Errors
    /// All that is wrong with them.
    pub(crate) fn read(config: &ProvisioningConfig) -> Result<Self, Vec<Fault>> {
        let mut faults = Vec::new();
        let mut fault = |code, key, text| faults.push(Fault { code, key, text });
        let mut keys = Vec::new();
        for path in &config.keys {
            let shown = path.display();
            let read = std::fs::read(path).map_err(|error| format!("cannot read {shown}: {error}"));
            let read = read.and_then(|pem| {
                Key::from_pem(&pem)
                    .map_err(|error| format!("{shown} holds no key that can be used: {error}"))
            });
            match read {
                Ok(read) => keys.extend(read),
                Err(text) => fault(Code::TokenKeys, "provisioning.keys", text),
            }
        }
        let mut authority = None;
        if let (Some(certificate), Some(key)) = (&config.ca_certificate, &config.ca_key) {
            match Authority::load(certificate, key, config.validity) {
                Ok(loaded) => authority = Some(loaded),
                Err((key, text)) => fault(Code::TlsContent, key, text),
            }
        }
        let hook = config.hook_url.as_ref().and_then(|url| {
            let ca = config.hook_ca_file.as_deref();
            let made = HttpClient::new(url, ca, config.hook_timeout, ANSWER_MAX);
            let key = "provisioning.hook_url";
            made.map_err(|error| fault(Code::WrongValue, key, format!("{key} is {error}")))
                .ok()
        });
        let mqtt = config.mqtt.as_ref().and_then(|mqtt| {
            let key = "provisioning.mqtt_client_ca";
            Bootstraps::new(mqtt)
                .map_err(|text| fault(Code::TlsContent, key, text))
                .ok()
        });
        match faults.is_empty() {
            true => Ok(Self {
                keys,
                authority,
                hook,
                mqtt,
            }),
            false => Err(faults),
        }
    }
}

//! What a connection keeps of a client that is more than a client id: one of a tenant, or a device of the registry.

use std::sync::Arc;

use dunlin_sync::publisher::publisher_text;

use super::run::Connection;
use crate::hub::Attached;
use crate::registry;

/// In a box of its own: most clients are neither, and an idle connection is to be small.
pub(super) struct Identity {
    /// What its messages are known by: client id and device.
    publisher: Arc<str>,
    /// The last topic of a tenant's client, as it is inside.
    pub(super) mounted: Option<Arc<str>>,
    /// Of a device, the key of its record and the topic of its reports.
    pub(super) reports: Option<(String, String)>,
}

impl Identity {
    pub(super) fn of(attached: &Attached) -> Option<Box<Self>> {
        let about = &attached.wake.about;
        let principal = about.principal();
        if about.tenant().is_none() && principal.device.is_none() {
            return None;
        }
        let key = registry::key_of(&principal);
        Some(Box::new(Self {
            publisher: publisher_text(&attached.session.client_id, principal.device.as_deref()),
            mounted: None,
            reports: key.map(|key| (key.to_string(), registry::topic_of(&key, "state"))),
        }))
    }
}

impl Connection {
    /// What the client's messages are known by.
    pub(super) fn publisher(&self) -> &Arc<str> {
        match &self.identity {
            None => &self.session.client_id,
            Some(identity) => &identity.publisher,
        }
    }
}

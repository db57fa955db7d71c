//! Who has published a message, as one text that is kept and relayed with it.
//!
//! The text is the client id, as it has always been; for a client of which the registry knows the device, the device's id
//! follows behind a NUL. No client id can have a NUL in it [MQTT-1.5.4-2], and the id of a client of a tenant begins with the
//! tenant's prefix, which other clients cannot take: so nobody can claim a device or a tenant by a client id that he chooses.

use std::sync::Arc;

/// What the topics and client ids of tenants begin with; the tenant's name and a slash follow.
pub const TENANT_PREFIX: &str = "$tenant/";
/// The same of their topics that begin with `$`.
pub const TENANT_DOLLAR_PREFIX: &str = "$tenant$/";

/// Between client id and device id.
const DEVICE_AT: char = '\0';

/// The text for a client and its device.
#[must_use]
pub fn publisher_text(client_id: &Arc<str>, device: Option<&str>) -> Arc<str> {
    match device {
        None => Arc::clone(client_id),
        Some(device) => format!("{client_id}{DEVICE_AT}{device}").into(),
    }
}

/// The client id in such a text, with the prefix of its tenant.
#[must_use]
pub fn client_of(text: &str) -> &str {
    text.split_once(DEVICE_AT)
        .map_or(text, |(client_id, _)| client_id)
}

/// Who has published.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Publisher<'a> {
    /// Its client id, within its tenant.
    pub client_id: &'a str,
    /// Its tenant.
    pub tenant: Option<&'a str>,
    /// The id of its device, within its tenant.
    pub device: Option<&'a str>,
}

impl<'a> Publisher<'a> {
    /// From the text.
    #[must_use]
    pub fn of(text: &'a str) -> Self {
        let (client_id, device) = match text.split_once(DEVICE_AT) {
            None => (text, None),
            Some((client_id, device)) => (client_id, Some(device)),
        };
        // The registry names a device with its tenant before it.
        let device = device.map(|device| device.rsplit_once('/').map_or(device, |(_, id)| id));
        let tenant = split_tenant(client_id);
        Self {
            client_id: tenant.map_or(client_id, |(_, id)| id),
            tenant: tenant.map(|(tenant, _)| tenant),
            device,
        }
    }

    /// A topic as this publisher sees it: within its tenant.
    #[must_use]
    pub fn topic(&self, topic: &'a str) -> &'a str {
        let dollars = || topic.strip_prefix(TENANT_DOLLAR_PREFIX)?.split_once('/');
        match split_tenant(topic).or_else(dollars) {
            Some((tenant, within)) if Some(tenant) == self.tenant => within,
            _ => topic,
        }
    }
}

/// Tenant and rest of what begins with a tenant's prefix.
fn split_tenant(text: &str) -> Option<(&str, &str)> {
    text.strip_prefix(TENANT_PREFIX)?.split_once('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_publisher_is_what_was_written() {
        for (id, device, expected) in [
            ("meter-7", None, ("meter-7", None, None)),
            ("meter-7", Some("/d1"), ("meter-7", None, Some("d1"))),
            ("meter-7", Some("d1"), ("meter-7", None, Some("d1"))),
            ("$tenant/acme/m", None, ("m", Some("acme"), None)),
            (
                "$tenant/acme/a/b",
                Some("acme/d1"),
                ("a/b", Some("acme"), Some("d1")),
            ),
            ("$tenant/acme", None, ("$tenant/acme", None, None)),
            ("", None, ("", None, None)),
        ] {
            let text = publisher_text(&Arc::from(id), device);
            let publisher = Publisher::of(&text);
            let found = (publisher.client_id, publisher.tenant, publisher.device);
            assert_eq!(found, expected);
            assert_eq!(client_of(&text), id);
        }
    }

    #[test]
    fn a_topic_loses_the_prefix_of_its_publishers_own_tenant_only() {
        let of = |id| Publisher::of(id);
        assert_eq!(of("$tenant/acme/m").topic("$tenant/acme/a/b"), "a/b");
        assert_eq!(of("$tenant/acme/m").topic("a/b"), "a/b");
        assert_eq!(of("$tenant/acme/m").topic("$tenant$/acme/$a/b"), "$a/b");
        assert_eq!(
            of("$tenant/acme/m").topic("$tenant$/other/$a"),
            "$tenant$/other/$a"
        );
        assert_eq!(
            of("$tenant/acme/m").topic("$tenant/acme/$tenant$/acme/$a"),
            "$tenant$/acme/$a"
        );
        assert_eq!(of("m").topic("$tenant/acme/a/b"), "$tenant/acme/a/b");
        assert_eq!(
            of("$tenant/other/m").topic("$tenant/acme/a"),
            "$tenant/acme/a"
        );
    }
}

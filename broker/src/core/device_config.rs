//! Which version of a device's configuration a message brings.
//!
//! It is in the message itself, as a user property, since the message may wait in a retained tree, in a queue, or on its way to another
//! replica while the configuration is replaced by a newer one: what is acknowledged is what was in the packet. Only in messages of
//! the broker's own does it mean anything: those have no publisher, which no client's lack.

use std::num::NonZeroU64;

use dunlin_protocol::{Properties, PropertiesBuf, Property};

/// The name of the property.
const NAME: &str = "config-version";

/// The property bytes of a message that brings this version.
pub(crate) fn properties(version: u64) -> Vec<u8> {
    let mut properties = PropertiesBuf::default();
    match properties.push(Property::UserProperty(NAME, &version.to_string())) {
        Ok(_) => properties.into_bytes(),
        // Thirty bytes always fit.
        Err(_) => Vec::new(),
    }
}

/// The version in a message; `None`: it has none, or is a client's.
pub(crate) fn version_in(properties: &[u8], publisher: Option<&str>) -> Option<NonZeroU64> {
    if publisher.is_some() {
        return None;
    }
    let mut named = Properties::from_validated(properties).user_properties();
    let (_, version) = named.find(|(name, _)| *name == NAME)?;
    version.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_as_it_was_written_and_from_nobody_but_the_broker() {
        let bytes = properties(7);
        assert_eq!(version_in(&bytes, None), NonZeroU64::new(7));
        assert_eq!(version_in(&bytes, Some("client")), None);
        assert_eq!(version_in(&[], None), None);
        assert_eq!(version_in(&properties(0), None), None);
        assert_eq!(
            version_in(&properties(u64::MAX), None),
            NonZeroU64::new(u64::MAX)
        );
    }
}

//! How a tenant's names look inside the broker: behind its mount point.
//!
//! A client of tenant `acme` that publishes to `a/b` publishes to `$tenant/acme/a/b`, and what begins with `$` goes to
//! `$tenant$/acme/…`: so neither its own wildcards nor those of somebody who may look into tenants (`$tenant/+/#`) reach it,
//! and nothing that matches topics has to know of tenants. Client ids are `$tenant/acme/<client id>`. The mount point is put
//! before what comes from the tenant's clients and taken off what goes to them; between the two, in sessions, stores and on
//! the way to other replicas, it is part of the name.

use std::sync::Arc;

use dunlin_protocol::topic;

/// Longest name of a tenant, in bytes.
pub(crate) const NAME_MAX: usize = 64;
/// Before the topics of tenants.
pub(crate) const TOPICS: &str = "$tenant/";
/// Before those of them that begin with `$`.
pub(crate) const DOLLARS: &str = dunlin_sync::publisher::TENANT_DOLLAR_PREFIX;
/// Longest topic, filter or client id, in bytes.
const TEXT_MAX: usize = 65_535;

/// A mount point.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    pub(crate) name: Arc<str>,
    topics: Box<str>,
    dollars: Box<str>,
}

/// With the mount point before it the name is longer than MQTT allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooLong;

impl Mount {
    /// `name` has been checked ([`check_name`]).
    pub(crate) fn new(name: Arc<str>) -> Self {
        Self {
            topics: format!("{TOPICS}{name}/").into(),
            dollars: format!("{DOLLARS}{name}/").into(),
            name,
        }
    }

    fn before(&self, topic: &str) -> &str {
        match topic.starts_with('$') {
            true => &self.dollars,
            false => &self.topics,
        }
    }

    /// A topic name as it is inside.
    pub(crate) fn topic(&self, topic: &str) -> Result<Arc<str>, TooLong> {
        joined(&[self.before(topic), topic])
    }

    /// A topic filter as it is inside, one of a shared subscription included.
    pub(crate) fn filter(&self, filter: &str) -> Result<Arc<str>, TooLong> {
        match topic::parse_shared(filter) {
            Ok(Some(shared)) => {
                let inner = shared.filter;
                let share = filter.len() - inner.len();
                joined(&[&filter[..share], self.before(inner), inner])
            }
            _ => joined(&[self.before(filter), filter]),
        }
    }

    /// A client id as it is inside.
    pub(crate) fn client_id(&self, id: &str) -> Result<Arc<str>, TooLong> {
        joined(&[&self.topics, id])
    }

    /// The topic as the tenant knows it; `None`: it is not one of the tenant's.
    pub(crate) fn own<'t>(&self, topic: &'t str) -> Option<&'t str> {
        topic
            .strip_prefix(&*self.topics)
            .or_else(|| topic.strip_prefix(&*self.dollars))
    }

    /// Whether a topic is one of the tenant's.
    pub(crate) fn owns(&self, topic: &str) -> bool {
        self.own(topic).is_some()
    }
}

fn joined(parts: &[&str]) -> Result<Arc<str>, TooLong> {
    match parts.iter().map(|part| part.len()).sum::<usize>() <= TEXT_MAX {
        true => Ok(Arc::from(parts.concat())),
        false => Err(TooLong),
    }
}

/// Tenant and rest of a topic or client id as it is inside; `None`: it belongs to no tenant.
pub(crate) fn split(inside: &str) -> Option<(&str, &str)> {
    let rest = inside
        .strip_prefix(TOPICS)
        .or_else(|| inside.strip_prefix(DOLLARS))?;
    rest.split_once('/')
}

/// A topic or client id without the mount point of its tenant.
pub(crate) fn own(inside: &str) -> &str {
    if !inside.starts_with('$') {
        return inside;
    }
    split(inside).map_or(inside, |(_, own)| own)
}

/// A filter as its client knows it.
pub(crate) fn own_filter(inside: &str) -> std::borrow::Cow<'_, str> {
    match topic::parse_shared(inside) {
        Ok(Some(shared)) => match split(shared.filter) {
            Some((_, own)) => {
                let share = inside.len() - shared.filter.len();
                [&inside[..share], own].concat().into()
            }
            None => inside.into(),
        },
        _ => own(inside).into(),
    }
}

/// Whether a name can be that of a tenant: it becomes a level of topics, a part of client ids and a word in metrics.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn check_name(name: &str) -> Result<(), String> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b" ._:@-".contains(&byte);
    if name.is_empty() || name.len() > NAME_MAX || !name.bytes().all(good) {
        return Err(format!(
            "{name:?} cannot be the name of a tenant: 1 to {NAME_MAX} of A-Z, a-z, 0-9, space and . _ : @ -"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_mounted_comes_off_again_and_belongs_to_nobody_else(
            name in "[A-Za-z0-9 ._:@-]{1,6}", other in "[A-Za-z0-9 ._:@-]{1,6}",
            topic in "[$a/+#.\u{212A}\\\\]{1,12}", group in "[a-z$]{1,3}",
        ) {
            let mount = Mount::new(Arc::from(&*name));
            let inside = mount.topic(&topic).unwrap();
            prop_assert_eq!(mount.own(&inside), Some(&*topic));
            prop_assert_eq!(split(&inside), Some((&*name, &*topic)));
            prop_assert_eq!(own(&inside), &*topic);
            let filter = mount.filter(&topic).unwrap();
            prop_assert_eq!(&*own_filter(&filter), &*topic);
            let id = mount.client_id(&topic).unwrap();
            prop_assert_eq!(split(&id), Some((&*name, &*topic)));
            let shared = format!("$share/{group}/{topic}");
            if topic::check_filter(&shared).is_ok() {
                let inside = mount.filter(&shared).unwrap();
                prop_assert_eq!(&*own_filter(&inside), &*shared);
                let inner = topic::parse_shared(&inside).unwrap().unwrap().filter;
                prop_assert_eq!(inner, &*mount.topic(&topic).unwrap());
            }
            if name != other {
                prop_assert!(!Mount::new(Arc::from(&*other)).owns(&inside));
            }
        }
    }

    #[test]
    fn names_cannot_change_the_shape_of_a_topic() {
        for bad in [
            "",
            "a/b",
            "+",
            "#",
            "$SYS",
            "a\0",
            "ä",
            "a\nb",
            &"x".repeat(65),
        ] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
        for good in ["acme", "Acme Corp", "project-1:eu", ".."] {
            assert!(check_name(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn a_name_that_would_be_too_long_inside_is_refused() {
        let mount = Mount::new(Arc::from("t"));
        assert_eq!(mount.topic(&"x".repeat(TEXT_MAX)), Err(TooLong));
        assert!(mount.topic(&"x".repeat(TEXT_MAX - 10)).is_ok());
    }
}

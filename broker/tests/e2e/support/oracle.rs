//! What MQTT says of topics, written without looking at how the broker does it.

/// Whether a filter matches a topic, level by level; `first`: they are whole, so that wildcards do not reach `$`.
pub(crate) fn matches(filter: &[&str], topic: &[&str], first: bool) -> bool {
    match (filter, topic) {
        (["#"], rest) => !(first && rest.first().is_some_and(|level| level.starts_with('$'))),
        ([], []) => true,
        (["+", filter @ ..], [level, topic @ ..]) => {
            !(first && level.starts_with('$')) && matches(filter, topic, false)
        }
        ([wanted, filter @ ..], [level, topic @ ..]) => {
            wanted == level && matches(filter, topic, false)
        }
        _ => false,
    }
}

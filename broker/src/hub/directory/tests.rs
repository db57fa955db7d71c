//! What the directory says of a topic, asked again and again while subscriptions change, is what each filter by itself says.

use std::collections::BTreeMap;

use dunlin_protocol::{QoS, SubscribeOptions};
use proptest::prelude::*;

use super::*;

const FILTERS: [&str; 8] = ["a", "b", "a/+", "a/#", "#", "+/x", "a/x", "+/+"];
const TOPICS: [&str; 7] = ["a", "b", "a/x", "b/x", "a/y", "c/y", "$a/x"];
const SESSIONS: usize = 4;

fn subscription(qos: QoS, identifier: Option<u32>) -> Subscription {
    Subscription {
        options: SubscribeOptions::new(qos),
        identifier,
    }
}

fn sessions() -> Vec<Arc<Session>> {
    let client_id = |number| Arc::from(format!("client-{number}"));
    (0..SESSIONS)
        .map(|number| Arc::new(Session::new(number as u64, client_id(number), None)))
        .collect()
}

/// Session, QoS and subscription identifiers of each receiver.
fn told(routes: &Routes) -> Vec<(u64, QoS, Vec<u32>)> {
    let told = |target: &routes::Target| {
        let wanted = target.wanted_from(u64::MAX).unwrap();
        let mut ids = wanted.subscription_ids.to_vec();
        ids.sort_unstable();
        (target.session.number, wanted.qos, ids)
    };
    routes.targets.iter().map(told).collect()
}

proptest! {
    #[test]
    fn the_receivers_of_a_topic_are_those_whose_filters_match_it(
        steps in proptest::collection::vec((0..SESSIONS, 0..FILTERS.len(), 0..4_u8, 0..4_u32), 1..60),
    ) {
        let directory = Directory::new();
        let sessions = sessions();
        let mut model: BTreeMap<(usize, usize), (QoS, Option<u32>)> = BTreeMap::new();
        for (session, filter, what, identifier) in steps {
            match QoS::try_from(what) {
                Ok(qos) => {
                    let identifier = (identifier > 0).then_some(identifier);
                    directory.subscribe(&sessions[session], FILTERS[filter], subscription(qos, identifier));
                    model.insert((session, filter), (qos, identifier));
                }
                Err(_) => {
                    directory.unsubscribe(&sessions[session], FILTERS[filter]);
                    model.remove(&(session, filter));
                }
            }
            for topic in TOPICS {
                let mut wanted: BTreeMap<u64, (QoS, Vec<u32>)> = BTreeMap::new();
                for ((session, filter), (qos, identifier)) in &model {
                    if topic::matches(FILTERS[*filter], topic) {
                        let entry = wanted.entry(*session as u64).or_default();
                        entry.0 = entry.0.max(*qos);
                        entry.1.extend(*identifier);
                        entry.1.sort_unstable();
                    }
                }
                let wanted: Vec<_> = wanted.into_iter().map(|(session, (qos, ids))| (session, qos, ids)).collect();
                // Twice: as it is found, and as it is remembered.
                prop_assert_eq!(told(&directory.routes(topic)), wanted.clone(), "{}", topic);
                prop_assert_eq!(told(&directory.routes(topic)), wanted, "{}", topic);
            }
        }
    }
}

#[test]
fn topics_with_the_same_receivers_share_one_list_until_one_is_wanted_otherwise() {
    let directory = Directory::new();
    let sessions = sessions();
    directory.subscribe(&sessions[0], "#", subscription(QoS::AtLeastOnce, None));
    let same =
        |one: &str, other: &str| Rc::ptr_eq(&directory.routes(one), &directory.routes(other));
    assert!(same("a", "b/c"));
    assert!(!same("a", "$a"), "nobody wants the one");
    directory.subscribe(&sessions[1], "a", subscription(QoS::AtMostOnce, None));
    assert!(!same("a", "b/c"));
    assert!(same("b", "b/c"));
    directory.unsubscribe(&sessions[1], "a");
    assert!(same("a", "b/c"));
    // The same session, but with another identifier, QoS or way with its own messages.
    for other in [
        subscription(QoS::AtLeastOnce, Some(1)),
        subscription(QoS::ExactlyOnce, None),
        Subscription {
            options: SubscribeOptions {
                no_local: true,
                ..SubscribeOptions::new(QoS::AtMostOnce)
            },
            identifier: None,
        },
    ] {
        directory.subscribe(&sessions[0], "a", other);
        assert!(!same("a", "b/c"), "{other:?}");
    }
}

#[test]
fn a_thread_remembers_a_bounded_number_of_topics_and_forgets_nothing_that_matters() {
    let directory = Directory::new();
    let sessions = sessions();
    directory.subscribe(&sessions[0], "t/#", subscription(QoS::AtMostOnce, None));
    let first = directory.routes("t/0");
    for number in 0..40_000 {
        let routes = directory.routes(&format!("t/{number}"));
        assert!(Rc::ptr_eq(&first, &routes));
    }
    assert!(
        Rc::strong_count(&first) < 20_000,
        "{}",
        Rc::strong_count(&first)
    );
}

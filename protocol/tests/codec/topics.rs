//! Topic names, topic filters and matching.

use dunlin_protocol::topic::{
    SharedFilter, TopicError, check_filter, check_name, check_plain_filter, matches, parse_shared,
};
use proptest::prelude::*;

use crate::arbitrary;

#[test]
fn examples_of_the_specification_match_as_it_says() {
    // [MQTT-4.7.1-1] v5, [MQTT-4.7.1-2] v311
    let multi = "sport/tennis/player1/#";
    for topic in [
        "sport/tennis/player1",
        "sport/tennis/player1/ranking",
        "sport/tennis/player1/score/wimbledon",
    ] {
        assert!(matches(multi, topic), "{topic}");
    }
    assert!(matches("sport/#", "sport"));
    assert!(matches("#", "sport") && matches("#", "sport/tennis") && matches("#", "/"));
    assert!(!matches(multi, "sport/tennis/player2"));
    assert!(!matches("sport/#", "sports"));
    // [MQTT-4.7.1-2] v5, [MQTT-4.7.1-3] v311
    assert!(matches("sport/tennis/+", "sport/tennis/player1"));
    assert!(matches("sport/tennis/+", "sport/tennis/player2"));
    assert!(!matches("sport/tennis/+", "sport/tennis/player1/ranking"));
    assert!(!matches("sport/+", "sport"));
    assert!(matches("sport/+", "sport/"));
    assert!(matches("+/+", "/finance") && matches("/+", "/finance"));
    assert!(!matches("+", "/finance"));
}

#[test]
fn levels_may_be_empty_and_count() {
    assert!(
        matches("/", "/")
            && matches("+/+", "/")
            && matches("a//b", "a//b")
            && matches("a/+/b", "a//b")
    );
    assert!(!matches("a/b", "a//b") && !matches("a", "/a") && !matches("/a", "a"));
    assert!(!matches("a/", "a") && !matches("a", "a/"));
    assert!(matches("a/#", "a/") && matches("a//#", "a/"));
    assert!(!matches("a//#", "a"));
}

#[test]
fn a_leading_wildcard_does_not_match_topics_that_begin_with_a_dollar_sign() {
    // [MQTT-4.7.2-1] v5, [MQTT-4.7.2-1] v311
    assert!(
        !matches("#", "$SYS/broker")
            && !matches("+/broker", "$SYS/broker")
            && !matches("+", "$SYS")
    );
    assert!(!matches("+/#", "$SYS/broker"));
    assert!(
        matches("$SYS/#", "$SYS/broker")
            && matches("$SYS/#", "$SYS")
            && matches("$SYS/+", "$SYS/broker")
    );
    // Only the first level is special.
    assert!(
        matches("a/#", "a/$b")
            && matches("a/+", "a/$b")
            && matches("#", "a/$b")
            && matches("/#", "/$b")
    );
}

#[test]
fn matching_is_exact_character_by_character() {
    // [MQTT-4.7.3-4] v5, [MQTT-4.7.3-4] v311
    assert!(!matches("a/B", "a/b"));
    // The same letter, composed and decomposed.
    assert!(!matches("caf\u{e9}", "cafe\u{301}"));
    assert!(matches("caf\u{e9}/+", "caf\u{e9}/温度"));
    assert!(matches("+/x", "é/x") && matches("é/#", "é") && !matches("e/#", "é"));
    assert!(!matches("\u{feff}a", "a") && !matches("a ", "a"));
}

#[test]
fn names_are_checked() {
    for topic in [
        "a",
        "/",
        "a/b",
        "$SYS/a",
        " ",
        "温度/é",
        "12345678",
        "123456789",
        &"x".repeat(65_535),
    ] {
        assert_eq!(check_name(topic), Ok(()));
    }
    // [MQTT-4.7.3-1] v5, [MQTT-4.7.3-1] v311
    assert_eq!(check_name(""), Err(TopicError::Empty));
    // [MQTT-4.7.3-3] v5, [MQTT-4.7.3-3] v311
    assert_eq!(
        check_name(&"x".repeat(65_536)),
        Err(TopicError::TooLong { len: 65_536 })
    );
    // Wherever it stands: the check takes eight bytes at a time.
    for len in 1..40 {
        for at in 0..len {
            let with = |c: &str| format!("{}{c}{}", "x".repeat(at), "x".repeat(len - at - 1));
            // [MQTT-4.7.0-1] v5, [MQTT-4.7.1-1] v311
            assert_eq!(check_name(&with("+")), Err(TopicError::Wildcard));
            assert_eq!(check_name(&with("#")), Err(TopicError::Wildcard));
            // [MQTT-4.7.3-2] v5, [MQTT-4.7.3-2] v311
            assert_eq!(check_name(&with("\0")), Err(TopicError::NulCharacter));
            for harmless in ["\u{1}", "*", ",", "\"", "$", "\u{7f}", "é"] {
                assert_eq!(
                    check_name(&with(harmless)),
                    Ok(()),
                    "{harmless:?} at {at} of {len}"
                );
            }
        }
    }
}

#[test]
fn filters_are_checked() {
    for filter in [
        "a",
        "#",
        "+",
        "+/+",
        "a/#",
        "/#",
        "a/+/b",
        "//",
        "$SYS/#",
        &"x".repeat(65_535),
    ] {
        assert_eq!(
            (check_filter(filter), check_plain_filter(filter)),
            (Ok(()), Ok(())),
            "{filter}"
        );
    }
    let wrong = [
        ("", TopicError::Empty),
        ("a#", TopicError::MultiLevelWildcard),
        ("#/a", TopicError::MultiLevelWildcard),
        ("a/#/", TopicError::MultiLevelWildcard),
        ("a+", TopicError::SingleLevelWildcard),
        ("+a/b", TopicError::SingleLevelWildcard),
        ("a/++/b", TopicError::SingleLevelWildcard),
        ("a/\0/b", TopicError::NulCharacter),
    ];
    for (filter, error) in wrong {
        assert_eq!(
            (check_filter(filter), check_plain_filter(filter)),
            (Err(error), Err(error)),
            "{filter}"
        );
    }
    let long = "x".repeat(65_536);
    assert_eq!(
        check_filter(&long),
        Err(TopicError::TooLong { len: 65_536 })
    );
}

#[test]
fn shared_filters_are_taken_apart() {
    // [MQTT-4.8.2-1] v5, [MQTT-4.8.2-2] v5
    assert_eq!(
        parse_shared("$share/g/a/+"),
        Ok(Some(SharedFilter {
            group: "g",
            filter: "a/+"
        }))
    );
    assert_eq!(
        parse_shared("$share/g//"),
        Ok(Some(SharedFilter {
            group: "g",
            filter: "/"
        }))
    );
    assert_eq!(
        parse_shared("$share/g/$SYS/#"),
        Ok(Some(SharedFilter {
            group: "g",
            filter: "$SYS/#"
        }))
    );
    for plain in [
        "a",
        "$share",
        "$SHARE/g/a",
        "$shared/g/a",
        "/$share/g/a",
        "share/g/a",
    ] {
        assert_eq!(parse_shared(plain), Ok(None), "{plain}");
    }
    let wrong = [
        ("$share/", TopicError::ShareFilter),
        ("$share/g", TopicError::ShareFilter),
        ("$share/g/", TopicError::ShareFilter),
        ("$share//a", TopicError::ShareName),
        ("$share//", TopicError::ShareName),
        ("$share/+/a", TopicError::ShareName),
        ("$share/g#/a", TopicError::ShareName),
        ("$share/g/a#", TopicError::MultiLevelWildcard),
        ("$share/g/a+", TopicError::SingleLevelWildcard),
        ("$share/\0/a", TopicError::NulCharacter),
        ("$share/g/\0", TopicError::NulCharacter),
    ];
    for (filter, error) in wrong {
        assert_eq!(parse_shared(filter), Err(error), "{filter}");
        assert_eq!(check_filter(filter), Err(error), "{filter}");
    }
    // As a whole, prefix included.
    let long = format!("$share/g/{}", "x".repeat(65_527));
    assert_eq!(
        parse_shared(&long),
        Err(TopicError::TooLong { len: 65_536 })
    );
    assert!(parse_shared(&long[..65_535]).is_ok());
}

/// Matching written for clarity: level by level, from the front.
fn matches_by_levels(filter: &[&str], topic: &[&str], first: bool) -> bool {
    let hidden = first && topic.first().is_some_and(|level| level.starts_with('$'));
    match (filter, topic) {
        (["#"], _) => !hidden,
        (["+", filter @ ..], [_, topic @ ..]) => !hidden && matches_by_levels(filter, topic, false),
        ([level, filter @ ..], [name, topic @ ..]) => {
            level == name && matches_by_levels(filter, topic, false)
        }
        ([], []) => true,
        _ => false,
    }
}

fn naive(filter: &str, topic: &str) -> bool {
    let (filter, topic): (Vec<_>, Vec<_>) =
        (filter.split('/').collect(), topic.split('/').collect());
    matches_by_levels(&filter, &topic, true)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn matching_agrees_with_the_plain_definition(filter in arbitrary::filter(), topic in arbitrary::topic()) {
        prop_assert_eq!(matches(&filter, &topic), naive(&filter, &topic));
    }

    /// Few letters, so that many of them match.
    #[test]
    fn matching_agrees_where_matches_are_frequent(
        levels in prop::collection::vec(prop::sample::select(vec!["a", "b", "", "$a", "é"]), 1..4),
        wild in prop::collection::vec(0..4u8, 3),
        multi in any::<bool>(),
    ) {
        let topic = levels.join("/");
        let mut filter: Vec<&str> =
            levels.iter().zip(&wild).map(|(&level, &wild)| if wild == 0 { "+" } else { level }).collect();
        if multi {
            filter.push("#");
        }
        let filter = filter.join("/");
        prop_assert_eq!(matches(&filter, &topic), naive(&filter, &topic), "{} {}", filter, topic);
    }

    #[test]
    fn valid_names_and_filters_pass(filter in arbitrary::filter(), topic in arbitrary::topic()) {
        prop_assert_eq!(check_filter(&filter), Ok(()));
        prop_assert_eq!(check_plain_filter(&filter), Ok(()));
        prop_assert_eq!(check_name(&topic), Ok(()));
    }

    #[test]
    fn checks_agree_with_the_plain_definition(text in "[a/+#\0$é]{0,12}") {
        let name = !text.is_empty() && !text.contains(['+', '#', '\0']);
        prop_assert_eq!(check_name(&text).is_ok(), name);
        let levels: Vec<_> = text.split('/').collect();
        let filter = !text.is_empty()
            && !text.contains('\0')
            && levels.iter().enumerate().all(|(i, level)| {
                !level.contains(['+', '#']) || *level == "+" || (*level == "#" && i + 1 == levels.len())
            });
        prop_assert_eq!(check_plain_filter(&text).is_ok(), filter);
    }

    #[test]
    fn any_text_is_checked_without_panic(text in any::<String>(), topic in any::<String>()) {
        let shared = parse_shared(&text);
        prop_assert_eq!(check_filter(&text).is_ok(), match shared {
            Ok(Some(_)) => true,
            Ok(None) => check_plain_filter(&text).is_ok(),
            Err(_) => false,
        });
        std::hint::black_box(matches(&text, &topic));
    }
}

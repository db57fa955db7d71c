use super::*;
use crate::row::{Delivery, UserPropertiesBuf};

const RULES: &str = r##"
[[rule]]
topic = "plant/{site}/{device}/telemetry"
table = "telemetry"
partition_by = "at"
cluster_by = ["device", "site"]
[rule.columns]
at = { from = "$.ts", type = "TIMESTAMP", unit = "ms", required = true }
device = "topic.device"
site = "topic.site"
temperature = { from = "$.values[0].t", type = "FLOAT64" }
firmware = "user_property.fw"
body = { from = "payload", type = "JSON" }
client = "client_id"

[[rule]]
topic = "plant/#"
table = "raw"
[rule.columns]
payload = "payload"
"##;

fn row<'a>(topic: &'a str, payload: &'a [u8], properties: &'a UserPropertiesBuf) -> Row<'a> {
    Row {
        received_at: 1_000,
        number: 1,
        delivery: Delivery::AtLeastOnce(1),
        fingerprint: 0,
        retain: true,
        topic,
        payload,
        client_id: Some("c-1"),
        tenant: Some("acme"),
        device_id: Some("d-1"),
        content_type: None,
        response_topic: None,
        origin: None,
        correlation_data: None,
        user_properties: properties.as_properties(),
    }
}

/// The rows of a message as table and texts of the values, or the refusal.
fn made(rules: &Rules, row: &Row<'_>) -> Vec<(String, Result<Vec<String>, String>)> {
    let mut rows = Vec::new();
    rules.apply(row, "id-1", |table, values| {
        let table = rules.tables()[table].name.clone();
        let values = values.map(|values| values.iter().map(|value| format!("{value:?}")).collect());
        rows.push((table, values.map_err(|refusal| refusal.to_string())));
    });
    rows
}

fn field(rules: &Rules, table: &str, row: &Row<'_>, name: &str) -> String {
    let definition = rules
        .tables()
        .iter()
        .find(|known| known.name == table)
        .unwrap();
    let place = definition
        .fields
        .iter()
        .position(|field| field.name == name)
        .unwrap();
    let rows = made(rules, row);
    let (_, values) = rows.into_iter().find(|(known, _)| known == table).unwrap();
    values.unwrap()[place].clone()
}

#[test]
fn every_rule_that_matches_makes_a_row_and_the_rest_goes_to_messages() {
    let rules = Rules::parse(RULES).unwrap();
    let mut properties = UserPropertiesBuf::default();
    properties.push("fw", "1.2");
    let payload = br#"{"ts": 1500, "values": [{"t": 21.5}]}"#;
    let message = row("plant/berlin/d7/telemetry", payload, &properties);
    let tables: Vec<_> = made(&rules, &message)
        .into_iter()
        .map(|(table, _)| table)
        .collect();
    assert_eq!(tables, ["telemetry", "raw"]);
    for (name, expected) in [
        ("at", "Int(1500000)"),
        ("device", r#"Text("d7")"#),
        ("site", r#"Text("berlin")"#),
        ("temperature", "Float(21.5)"),
        ("firmware", r#"Text("1.2")"#),
        ("client", r#"Text("c-1")"#),
        ("received_at", "Int(1000)"),
        ("message_id", r#"Text("id-1")"#),
    ] {
        assert_eq!(
            field(&rules, "telemetry", &message, name),
            expected,
            "{name}"
        );
    }
    let other = row("office/x", b"\xff", &properties);
    assert_eq!(field(&rules, "messages", &other, "payload_json"), "Null");
    assert_eq!(field(&rules, "messages", &other, "payload"), "Bytes([255])");
    assert_eq!(made(&rules, &other).len(), 1);
}

#[test]
fn a_message_that_does_not_fit_one_rule_still_fits_the_others() {
    let rules = Rules::parse(RULES).unwrap();
    let properties = UserPropertiesBuf::default();
    let telemetry = "plant/berlin/d7/telemetry";
    for (payload, words) in [
        (
            b"{}".as_slice(),
            r#"rule "plant/{site}/{device}/telemetry", column "at": the rule requires a value, and the message has none"#,
        ),
        (
            b"hello",
            r#"rule "plant/{site}/{device}/telemetry", column "at": the payload is no JSON: expected value at line 1 column 1"#,
        ),
        (
            br#"{"ts": 1, "values": [{"t": "warm"}]}"#,
            r#"rule "plant/{site}/{device}/telemetry", column "temperature": "warm" is no FLOAT64"#,
        ),
    ] {
        let rows = made(&rules, &row(telemetry, payload, &properties));
        let [(_, Err(refusal)), (raw, Ok(_))] = rows.as_slice() else {
            panic!("unexpected rows {rows:?}");
        };
        assert!(
            refusal == words || refusal.starts_with(words.split(" at line").next().unwrap()),
            "{refusal}"
        );
        assert_eq!(raw, "raw");
    }
}

#[test]
fn two_rules_of_one_table_share_its_columns_and_the_first_that_matches_counts() {
    let rules = Rules::parse(
        r##"
        default_table = ""
        [[rule]]
        topic = "a/{x}"
        table = "t"
        columns = { x = "topic.x" }
        [[rule]]
        topic = "#"
        table = "t"
        columns = { x = "topic", y = { from = "payload", type = "STRING" } }
        "##,
    )
    .unwrap();
    let properties = UserPropertiesBuf::default();
    let names: Vec<_> = rules.tables()[0]
        .fields
        .iter()
        .map(|field| field.name.as_str())
        .collect();
    assert_eq!(names, ["received_at", "message_id", "x", "y"]);
    let message = row("a/b", b"p", &properties);
    assert_eq!(made(&rules, &message).len(), 1);
    assert_eq!(field(&rules, "t", &message, "x"), r#"Text("b")"#);
    assert_eq!(field(&rules, "t", &message, "y"), "Null");
    assert_eq!(
        field(&rules, "t", &row("b", b"p", &properties), "y"),
        r#"Text("p")"#
    );
    assert_eq!(rules.filters(), ["a/+", "#"]);
    assert_eq!(
        rules.tap_filters(),
        ["a/+", "#", "$tenant/+/a/+", "$tenant/+/#"]
    );
}

#[test]
fn topics_that_begin_with_a_dollar_are_asked_for_where_tenants_have_them_and_beside_all_others() {
    let rule = "[[rule]]\ntopic = \"$line/{line}\"\ntable = \"lines\"\ncolumns = { line = \"topic.line\" }\n";
    let rules = Rules::parse(&format!("default_table = \"\"\n{rule}")).unwrap();
    assert_eq!(rules.tap_filters(), ["$line/+", "$tenant$/+/$line/+"]);
    let rules = Rules::parse(rule).unwrap();
    assert_eq!(
        rules.tap_filters(),
        ["#", "$line/+", "$tenant/+/#", "$tenant$/+/$line/+"]
    );
}

#[test]
fn every_mistake_is_told_with_its_place() {
    let problems = Rules::parse(
        r##"
        [[rule]]
        topic = "a/{x}"
        table = "t 1"
        columns = {}
        [[rule]]
        topic = "a/{x}/#/b"
        table = "t"
        columns = {}
        [[rule]]
        topic = "a/{x}"
        table = "t"
        partition_by = "x"
        cluster_by = ["z"]
        [rule.columns]
        x = "topic.y"
        "1" = "topic"
        _PARTITIONTIME = "topic"
        a = "paylod"
        b = { from = "$.x y", type = "STRING" }
        c = { from = "topic", type = "INT64" }
        d = { from = "$.d", type = "INT64", unit = "s" }
        "##,
    )
    .unwrap_err();
    let expected = [
        "rule 1 (\"a/{x}\"): \"t 1\" is no name of a table",
        "rule 2 (\"a/{x}/#/b\"): nothing may follow #",
        "column \"1\": a name of a column",
        "column \"_PARTITIONTIME\": names that begin with _partition",
        "column \"a\": \"paylod\" is no source of a value",
        "column \"b\": \"$.x y\": a name after a dot",
        "column \"c\": \"topic\" cannot be of type INT64",
        "column \"d\": unit says",
        "column \"x\": the pattern \"a/{x}\" has no level {y}",
        "partition_by = \"x\" must name a TIMESTAMP column",
        "cluster_by names \"z\"",
    ];
    for (problem, words) in problems.iter().zip(expected) {
        assert!(problem.contains(words), "{problem}\nhas not: {words}");
    }
    assert_eq!(problems.len(), expected.len(), "{problems:#?}");
}

#[test]
fn a_misspelt_key_and_a_wrong_type_name_their_line() {
    for (text, words) in [
        (
            "[[rule]]\ntopic = \"a\"\ntabel = \"t\"\n",
            "line 3: unknown field `tabel`",
        ),
        (
            "defualt_table = \"x\"",
            "line 1: unknown field `defualt_table`",
        ),
        ("[[rule]\n", "line 1: "),
        (
            "[[rule]]\ntopic = \"a\"\ntable = \"t\"\n[rule.columns]\na = { from = \"topic\", type = \"FLOAT\" }\n",
            "line 5: a column is a text",
        ),
    ] {
        let problems = Rules::parse(text).unwrap_err();
        assert!(problems[0].starts_with(words), "{problems:?}");
    }
}

#[test]
fn types_that_disagree_between_rules_of_one_table_are_refused() {
    let problems = Rules::parse(
        r##"
        [[rule]]
        topic = "a"
        table = "t"
        columns = { v = { from = "$.v", type = "INT64" } }
        [[rule]]
        topic = "b"
        table = "t"
        columns = { v = { from = "$.v", type = "STRING" } }
        "##,
    )
    .unwrap_err();
    assert_eq!(problems.len(), 1);
    assert!(
        problems[0].contains("column \"v\" of type STRING is \"v\" of type INT64"),
        "{problems:?}"
    );
}

#[test]
fn a_tenant_is_a_level_of_the_topic_or_a_user_property() {
    let text = r##"
default_table = ""
[[rule]]
topic = "{tenant}/{device}/telemetry"
table = "telemetry"
[rule.columns]
tenant = "topic.tenant"
device = "topic.device"
[[rule]]
topic = "{tenant}/#"
table = "others"
columns = { tenant = "topic.tenant", said = "user_property.tenant", topic = "topic" }
"##;
    let rules = Rules::parse(text).unwrap();
    let mut properties = UserPropertiesBuf::default();
    let message = row("acme/d7/telemetry", b"{}", &properties);
    assert_eq!(
        field(&rules, "telemetry", &message, "tenant"),
        "Text(\"acme\")"
    );
    assert_eq!(
        field(&rules, "telemetry", &message, "device"),
        "Text(\"d7\")"
    );
    assert_eq!(field(&rules, "others", &message, "said"), "Null");
    properties.push("tenant", "globex");
    let message = row("acme", b"{}", &properties);
    assert_eq!(
        field(&rules, "others", &message, "tenant"),
        "Text(\"acme\")"
    );
    assert_eq!(
        field(&rules, "others", &message, "said"),
        "Text(\"globex\")"
    );
}

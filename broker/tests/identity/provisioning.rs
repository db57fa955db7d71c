//! A device with a bootstrap credential gets an identity of its own over HTTPS and over MQTT, and nothing else by either.

use dunlin_protocol::{
    Connect, Packet, PacketId, Properties, Property, Publish, QoS, ReasonCode, Version, Will,
};
use rcgen::KeyPair;
use serde_json::json;

use crate::{
    authority::nobody,
    client::{Client, Kind},
    plant::{Plant, REQUEST, ask, audited, csr, hear, nonce, publish, request, spy, subscribe},
};

const VERSIONS: [Version; 3] = [Version::V31, Version::V311, Version::V5];
const V5: Version = Version::V5;

fn key() -> KeyPair {
    KeyPair::generate().unwrap()
}

#[test]
fn a_device_asks_over_mqtt_and_connects_with_what_it_has_got() {
    let plant = Plant::start("", "");
    for (n, version) in VERSIONS.into_iter().enumerate() {
        let (serial, key) = (format!("sn-{n}"), key());
        let mut client = plant.connect(version, &format!("new-{n}"));
        let topic = format!("$provision/response/new-{n}");
        assert_eq!(subscribe(&mut client, &[&topic]), [0]);
        let reason = publish(
            &mut client,
            REQUEST,
            &[],
            &request(&serial, &key).to_string(),
        );
        assert_eq!(reason, ReasonCode::SUCCESS);
        let heard = hear(&mut client);
        let (status, identity) = heard.answer;
        assert_eq!(status, 200, "{identity}");
        assert_eq!((heard.topic, heard.retain), (topic, false));
        assert_eq!(identity["device"], json!(serial));
        assert_eq!(
            plant.connect_device(&identity, &key, version),
            ReasonCode::SUCCESS
        );
        // The same by another road: the same identity; and none for another key.
        let token = plant.token("");
        let again = plant.post(Some(&token), None, &request(&serial, &key).to_string());
        assert_eq!(again.unwrap(), (200, identity.clone()));
        assert_eq!(
            ask(&mut client, &request(&serial, &key).to_string()).1,
            identity
        );
        let other = request(&serial, &self::key()).to_string();
        assert_eq!(ask(&mut client, &other).0, 409);
    }
}

#[test]
fn an_answer_goes_to_the_response_topic_with_its_correlation_data() {
    let plant = Plant::start("", "");
    let mut client = plant.connect(V5, "new");
    assert_eq!(subscribe(&mut client, &["$provision/response/#"]), [0]);
    let wanted =
        json!({ "serial": "sn-1", "nonce": nonce(), "public_key": key().public_key_pem() });
    for (named, heard_at) in [
        ("$provision/response/a/b", "$provision/response/a/b"),
        ("$provision/response", "$provision/response"),
        // Nothing is published anywhere else by the name of the broker.
        ("plant/alarms", "$provision/response/new"),
        ("$provision/responses", "$provision/response/new"),
        ("$SYS/broker", "$provision/response/new"),
    ] {
        let properties = [
            Property::ResponseTopic(named),
            Property::CorrelationData(b"\x00\xffid"),
        ];
        let reason = publish(&mut client, REQUEST, &properties, &wanted.to_string());
        assert_eq!(reason, ReasonCode::SUCCESS);
        let heard = hear(&mut client);
        assert_eq!(heard.topic, heard_at);
        assert_eq!(heard.correlation.as_deref(), Some(&b"\x00\xffid"[..]));
        let expected = match named {
            "$provision/response/a/b" => "application/json",
            // The nonce was used by then.
            _ => "application/problem+json",
        };
        assert_eq!(heard.kind.as_deref(), Some(expected), "{:?}", heard.answer);
    }
}

#[test]
fn a_bootstrap_credential_is_good_for_nothing_else() {
    let plant = Plant::start("", "");
    let mut spy = spy(&plant);
    for version in VERSIONS {
        let mut client = plant.connect(version, "new");
        let denied = if version == V5 { 0x87 } else { 0x80 };
        for filter in [
            "#",
            "+/response/new",
            "$provision/#",
            "$provision/+/new",
            "$provision/request",
            "$provision/responses",
            "$share/group/$provision/response/new",
            "$SYS/#",
            "plant/line",
        ] {
            assert_eq!(subscribe(&mut client, &[filter]), [denied], "{filter}");
        }
        assert_eq!(
            subscribe(&mut client, &["plant", "$provision/response/new"]),
            [denied, 0]
        );
        for topic in [
            "plant/line",
            "$provision/response/new",
            "$provision/request/new",
            "/devices/sn-1/events",
        ] {
            let reason = publish(&mut client, topic, &[], "{}");
            let expected = match version {
                V5 => ReasonCode::NOT_AUTHORIZED,
                _ => ReasonCode::SUCCESS,
            };
            assert_eq!(reason, expected, "{topic}");
        }
        client.ping();
        // What it asks for and is answered is heard by nobody else.
        let wanted = request(&format!("sn-{version:?}"), &key()).to_string();
        assert_eq!(ask(&mut client, &wanted).0, 200);
        client.ping();
    }
    spy.ping();
    // Not retained either.
    let mut late = self::spy(&plant);
    late.ping();
}

#[test]
fn a_will_is_refused() {
    let plant = Plant::start("", "");
    for version in VERSIONS {
        let mut client = Client::open(Kind::Tcp, plant.address("tcp"), &nobody(), version).unwrap();
        let token = plant.token("");
        let connect = Connect {
            username: Some("whoever"),
            password: Some(token.as_bytes()),
            will: Some(Will {
                topic: REQUEST,
                payload: b"{}",
                qos: QoS::AtMostOnce,
                retain: false,
                properties: Properties::EMPTY,
            }),
            ..Connect::new(version, "new")
        };
        client.send(&Packet::Connect(connect)).unwrap();
        let expected = match version {
            V5 => ReasonCode::NOT_AUTHORIZED,
            _ => ReasonCode(5),
        };
        assert_eq!(client.connack().unwrap(), expected);
    }
}

#[test]
fn errors_are_those_of_https() {
    let plant = Plant::start("", "");
    let token = plant.token(r#","serial":"sn-1""#);
    let mut client = plant.connect_to("tcp", V5, "new", &token);
    subscribe(&mut client, &["$provision/response/new"]);
    let used = nonce();
    let first = key();
    let once = json!({ "serial": "sn-1", "nonce": used, "csr": csr(&first) }).to_string();
    assert_eq!(ask(&mut client, &once).0, 200);
    let both = || {
        let (csr, public_key) = (csr(&key()), key().public_key_pem());
        json!({ "serial": "sn-1", "nonce": nonce(), "csr": csr, "public_key": public_key })
    };
    type Make<'a> = &'a dyn Fn() -> String;
    let cases: [(Make<'_>, u64, &str); 8] = [
        (&|| "no JSON".to_owned(), 400, "invalid"),
        (&String::new, 400, "invalid"),
        (&|| "{\"serial\":\"sn-1\"}".to_owned(), 400, "invalid"),
        (&|| both().to_string(), 400, "invalid"),
        (&|| request("a/b", &key()).to_string(), 400, "invalid"),
        (&|| request("sn-2", &key()).to_string(), 403, "forbidden"),
        (&|| request("sn-1", &key()).to_string(), 409, "exists"),
        (&|| once.clone(), 409, "replayed"),
    ];
    for (wrong, status, kind) in cases {
        let (over_mqtt, problem) = ask(&mut client, &wrong());
        assert_eq!(over_mqtt, status, "{problem}");
        assert_eq!(problem["type"], json!(format!("urn:dunlin:problem:{kind}")));
        let over_https = plant.post(Some(&token), None, &wrong()).unwrap();
        assert_eq!(over_https, (over_mqtt, problem), "word for word");
    }
}

#[test]
fn whoever_does_not_listen_for_the_answer_is_not_asked() {
    let plant = Plant::start("", "");
    let mut client = plant.connect(V5, "new");
    let wanted = request("sn-1", &key()).to_string();
    let reason = publish(&mut client, REQUEST, &[], &wanted);
    assert_eq!(reason, ReasonCode::IMPLEMENTATION_SPECIFIC_ERROR);
    subscribe(&mut client, &["$provision/response/another"]);
    let reason = publish(&mut client, REQUEST, &[], &wanted);
    assert_eq!(reason, ReasonCode::IMPLEMENTATION_SPECIFIC_ERROR);
    subscribe(&mut client, &["$provision/response/+"]);
    // Its nonce is as good as ever.
    assert_eq!(ask(&mut client, &wanted).0, 200);
}

#[test]
fn a_client_id_is_not_claimed_by_a_bootstrap_credential() {
    let plant = Plant::start("", "");
    let key = key();
    let mut client = plant.connect(V5, "sn-1");
    subscribe(&mut client, &["$provision/response/sn-1"]);
    let (_, identity) = ask(&mut client, &request("sn-1", &key).to_string());
    // Twice with one client id, and neither is sent away.
    let mut twin = plant.connect(V5, "sn-1");
    assert_eq!(
        plant.connect_device(&identity, &key, V5),
        ReasonCode::SUCCESS
    );
    let connected = plant.with_certificate("tls", V5, "sn-1", "sn-1");
    let (mut device, _) = connected.unwrap();
    let mut third = plant.connect(V5, "sn-1");
    for client in [&mut client, &mut twin, &mut device, &mut third] {
        client.ping();
    }
}

#[test]
fn certificates_of_the_bootstrap_authority_may_ask_and_no_others() {
    let plant = Plant::start("", "");
    for version in VERSIONS {
        let serial = format!("sn-{version:?}");
        let (mut client, reason) = plant
            .with_certificate("tls", version, "new", "good")
            .unwrap();
        assert_eq!(reason, ReasonCode::SUCCESS);
        subscribe(&mut client, &["$provision/response/new"]);
        let key = key();
        let (status, identity) = ask(&mut client, &request(&serial, &key).to_string());
        assert_eq!(status, 200, "{identity}");
        let again = plant.post(None, Some("good"), &request(&serial, &key).to_string());
        assert_eq!(again.unwrap(), (200, identity.clone()));
        assert_eq!(
            plant.connect_device(&identity, &key, version),
            ReasonCode::SUCCESS
        );
        let refused = match version {
            V5 => ReasonCode::NOT_AUTHORIZED,
            _ => ReasonCode(5),
        };
        // An authority of somebody else's that the listener knows, too.
        let (_, reason) = plant
            .with_certificate("tls", version, "ann", "ann")
            .unwrap();
        assert_eq!(reason, refused);
        // A bootstrap credential has no name where certificates have names.
        let (_, reason) = plant
            .with_certificate("named", version, "new", "good")
            .unwrap();
        assert_eq!(reason, refused);
        let (_, reason) = plant
            .with_certificate("named", version, "ann", "ann")
            .unwrap();
        assert_eq!(reason, ReasonCode::SUCCESS);
        for wrong in ["expired", "revoked", "stranger"] {
            let refused = plant.with_certificate("tls", version, "new", wrong);
            assert!(refused.is_err(), "TLS takes the certificate {wrong:?}");
        }
    }
    for wrong in ["expired", "revoked", "stranger", "ann"] {
        let wanted = request("sn-x", &key()).to_string();
        let refused = plant.post(None, Some(wrong), &wanted);
        assert!(refused.is_err(), "{wrong}: {refused:?}");
    }
    let nobody = plant.post(None, None, &request("sn-x", &key()).to_string());
    assert_eq!(nobody.unwrap().0, 401);
}

#[test]
fn tokens_that_are_not_good_are_refused_and_so_are_good_ones_elsewhere() {
    let plant = Plant::start("", "");
    let (stranger, _) = crate::tokens::Signer::es256_with_pem();
    let now = crate::tokens::now();
    let claims = format!(
        r#"{{"aud":"provisioning","sub":"x","iat":{now},"exp":{}}}"#,
        now + 60
    );
    for version in VERSIONS {
        let (wrong, not) = match version {
            V5 => (
                ReasonCode::BAD_USER_NAME_OR_PASSWORD,
                ReasonCode::NOT_AUTHORIZED,
            ),
            _ => (ReasonCode(4), ReasonCode(5)),
        };
        for (listener, token, reason) in [
            ("tcp", stranger.sign(None, &claims), wrong),
            ("tcp", plant.token(r#","aud":"another""#), wrong),
            (
                "tcp",
                plant.token(&format!(r#","nbf":{}"#, now + 9_000)),
                wrong,
            ),
            ("tcp", "a.b.c".to_owned(), wrong),
            // It would be no device's, nor anybody's who needs no name.
            ("open", stranger.sign(None, &claims), wrong),
            ("others", plant.token(""), not),
            // The listener is another tenant's.
            ("tenants", plant.token(r#","tenant":"other""#), not),
            ("tcp", plant.token(r#","tenant":"nobody-s""#), not),
        ] {
            let (_, found) = plant.try_connect(listener, version, "new", &token);
            assert_eq!(found, reason, "{listener}");
        }
    }
}

#[test]
fn devices_of_a_tenant_are_that_tenants() {
    let plant = Plant::start("", "");
    for (n, (listener, claim)) in [("tenants", ""), ("tcp", r#","tenant":"acme""#)]
        .into_iter()
        .enumerate()
    {
        let token = plant.token(claim);
        let mut client = plant.connect_to(listener, V5, "new", &token);
        subscribe(&mut client, &["$provision/response/new"]);
        let (serial, key) = (format!("sn-{n}"), key());
        let (status, identity) = ask(&mut client, &request(&serial, &key).to_string());
        assert_eq!((status, &identity["tenant"]), (200, &json!("acme")));
        assert_eq!(
            plant.connect_device(&identity, &key, V5),
            ReasonCode::SUCCESS
        );
    }
}

#[test]
fn a_connection_ends_when_its_time_is_over() {
    let plant = Plant::start("mqtt_lifetime_ms = 1000", "");
    let mut client = plant.connect(V5, "new");
    assert_eq!(client.disconnect(), ReasonCode::MAXIMUM_CONNECT_TIME);
    let mut older = plant.connect(Version::V311, "new");
    assert!(older.next(|packet| panic!("{packet:?}")).is_err());
}

#[test]
fn a_request_that_takes_longer_than_the_connection_may_is_given_up() {
    let hook = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    // It takes connections and never says anything.
    let url = format!("http://{}/", hook.local_addr().unwrap());
    let plant = Plant::start(
        &format!("mqtt_lifetime_ms = 1000\nhook_timeout_ms = 60000\nhook_url = {url:?}"),
        "",
    );
    let mut client = plant.connect(V5, "new");
    subscribe(&mut client, &["$provision/response/new"]);
    let publish = Publish {
        topic: REQUEST,
        payload: &request("sn-1", &key()).to_string().into_bytes(),
        ..Publish::default()
    };
    client.send(&Packet::Publish(publish)).unwrap();
    assert_eq!(client.disconnect(), ReasonCode::MAXIMUM_CONNECT_TIME);
    let events = audited(&plant, "provisioning", 1);
    assert_eq!(events[0]["target"], json!("sn-1"));
    let why = events[0]["why"].as_str().unwrap();
    assert!(why.starts_with("the time of the connection was over"));
}

#[test]
fn a_broker_that_stops_says_so() {
    let plant = Plant::start("", "");
    let mut client = plant.connect(V5, "new");
    client.ping();
    plant.broker.terminate();
    assert_eq!(client.disconnect(), ReasonCode::SERVER_SHUTTING_DOWN);
}

#[test]
fn requests_over_both_roads_count_together() {
    let plant = Plant::start("per_minute = 6", "");
    let token = plant.token("");
    let mut client = plant.connect(V5, "new");
    subscribe(&mut client, &["$provision/response/new"]);
    let mut stopped = 0;
    // Two minutes may be touched.
    for n in 0..10 {
        let wanted = match n % 2 {
            0 => "no JSON".to_owned(),
            _ => request(&format!("sn-{n}"), &key()).to_string(),
        };
        let (mqtt, _) = ask(&mut client, &wanted);
        let (https, _) = plant.post(Some(&token), None, &wanted).unwrap();
        stopped += [mqtt, https].iter().filter(|it| **it == 429).count();
    }
    assert!((8..=14).contains(&stopped), "{stopped}");
    // Strangers count by their address, and neither they nor floods fill the audit log.
    for _ in 0..30 {
        assert_eq!(plant.post(Some("a.b.c"), None, "{}").unwrap().0, 401);
    }
    // What is written down comes in order: that of the spy is behind all of it.
    let mut last = spy(&plant);
    last.ping();
    audited(&plant, "connected", 2);
    let events = audited(&plant, "provisioning", 1);
    // In each of three minutes at the most: six that were looked at, and twice that there were too many.
    assert!(events.len() <= 3 * (6 + 2), "{events:#?}");
}

#[test]
fn what_breaks_the_protocol_ends_the_connection() {
    let plant = Plant::start("", "");
    let wrong = |send: &dyn Fn(&mut Client)| {
        let mut client = plant.connect(V5, "new");
        send(&mut client);
        client.disconnect()
    };
    let twice = wrong(&|client| {
        let publish = Publish {
            qos: QoS::ExactlyOnce,
            topic: REQUEST,
            packet_id: PacketId::new(1),
            ..Publish::default()
        };
        client.send(&Packet::Publish(publish)).unwrap();
    });
    assert_eq!(twice, ReasonCode::QOS_NOT_SUPPORTED);
    let large = wrong(&|client| {
        let payload = vec![b'x'; 70_000];
        let publish = Publish {
            topic: REQUEST,
            payload: &payload,
            ..Publish::default()
        };
        client.send(&Packet::Publish(publish)).unwrap();
    });
    assert_eq!(large, ReasonCode::PACKET_TOO_LARGE);
    let second = wrong(&|client| {
        client
            .send(&Packet::Connect(Connect::new(V5, "new")))
            .unwrap();
    });
    assert_eq!(second, ReasonCode::PROTOCOL_ERROR);
    let many: Vec<String> = (0..9).map(|n| format!("$provision/response/{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let mut client = plant.connect(V5, "new");
    let granted = subscribe(&mut client, &many);
    assert_eq!(granted, [0, 0, 0, 0, 0, 0, 0, 0, 0x97]);
    let (_, reason) = plant.try_connect("tcp", V5, "a+b", &plant.token(""));
    assert_eq!(reason, ReasonCode::CLIENT_IDENTIFIER_NOT_VALID);
}

#[test]
fn every_step_is_in_the_audit_log_and_no_secret_is() {
    let plant = Plant::start("", "");
    let (token, key) = (plant.token(""), key());
    let mut client = plant.connect_to("tcp", V5, "new", &token);
    publish(&mut client, "plant/line", &[], "x");
    publish(&mut client, "plant/line", &[], "x");
    let wanted = request("sn-1", &key);
    publish(&mut client, REQUEST, &[], &wanted.to_string());
    subscribe(&mut client, &["$provision/response/new"]);
    for wanted in [
        wanted.to_string(),
        wanted.to_string(),
        request("sn-1", &key).to_string(),
        request("sn-1", &self::key()).to_string(),
        "no JSON".to_owned(),
    ] {
        ask(&mut client, &wanted);
    }
    plant.post(Some(&token), None, "no JSON").unwrap();
    plant
        .post(Some("a.b.c"), None, &request("sn-2", &key).to_string())
        .unwrap();
    let events = audited(&plant, "provisioning", 9);
    let told: Vec<_> = events
        .iter()
        .map(|event| {
            let text = |name: &str| event[name].as_str().unwrap_or("-").to_owned();
            let why = text("why").split(':').next().unwrap().to_owned();
            (
                text("action"),
                text("listener"),
                text("client"),
                text("by"),
                text("target"),
                why,
            )
        })
        .collect();
    let line = |action: &str, road: bool, by: &str, target: &str, why: &str| {
        let (listener, client) = if road { ("tcp", "new") } else { ("-", "-") };
        let action = format!("provisioning.{action}");
        [&action, listener, client, by, target, why]
            .map(str::to_owned)
            .into()
    };
    let json = told[6].5.clone();
    let expected: Vec<(String, String, String, String, String, String)> = vec![
        line(
            "refused",
            true,
            "line-1",
            "-",
            "a bootstrap credential is good for publishing to $provision/request alone",
        ),
        line("refused", true, "line-1", "-", "nothing was asked"),
        line("given", true, "line-1", "sn-1", "-"),
        line(
            "refused",
            true,
            "line-1",
            "sn-1",
            "this nonce has been used",
        ),
        line("repeated", true, "line-1", "sn-1", "-"),
        line(
            "refused",
            true,
            "line-1",
            "sn-1",
            "this serial number has an identity with another key",
        ),
        line("refused", true, "line-1", "-", &json),
        line("refused", false, "line-1", "-", &json),
        line(
            "refused",
            false,
            "-",
            "-",
            "no bootstrap credential that is good",
        ),
    ];
    assert_eq!(told, expected);
    drop(client);
    let connected = &audited(&plant, "connected", 1)[0];
    let left = &audited(&plant, "disconnected", 1)[0];
    for event in [connected, left] {
        assert_eq!(
            (&event["client"], &event["user"]),
            (&json!("new"), &json!("line-1")),
            "{event}"
        );
        assert_eq!(event["method"], json!("provisioning"));
    }
    let text = std::fs::read_to_string(plant.at().join("audit")).unwrap() + &plant.broker.log();
    let nonce = wanted["nonce"].as_str().unwrap();
    for secret in [&token, nonce, "BEGIN CERTIFICATE"] {
        assert!(!text.contains(secret), "{secret}");
    }
}

#[test]
fn what_came_with_connect_is_not_lost() {
    // A client need not wait for CONNACK.
    let plant = Plant::start("", "");
    let mut client = Client::open(Kind::Tcp, plant.address("tcp"), &nobody(), V5).unwrap();
    let token = plant.token("");
    crate::client::Shown::named("whoever", &token)
        .send(&mut client, "new")
        .unwrap();
    client.send(&Packet::PingReq).unwrap();
    assert_eq!(client.connack().unwrap(), ReasonCode::SUCCESS);
    client
        .next(|packet| assert!(matches!(packet, Packet::PingResp), "{packet:?}"))
        .unwrap();
}

//! Every method, version, kind of listener and state of the credential, and what the client is told: the exact code, or the end of its TLS
//! handshake. What cannot be is in the table, too, with the reason.

use std::{collections::BTreeMap, fmt, io};

use dunlin_protocol::{ReasonCode, Version};

use crate::{
    authority,
    client::{Answer, Client, Kind, Shown},
    enhanced::{SCRAM, TOKEN, scram},
    tokens::{Signer, now},
    world::World,
};

const VERSIONS: [(Version, &str); 3] = [
    (Version::V31, "3.1"),
    (Version::V311, "3.1.1"),
    (Version::V5, "5.0"),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Given {
    Right,
    Wrong,
    Missing,
    Expired,
    Revoked,
}

const GIVEN: [Given; 5] = [
    Given::Right,
    Given::Wrong,
    Given::Missing,
    Given::Expired,
    Given::Revoked,
];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Row {
    Anonymous,
    Certificate,
    Users,
    UsersOfMosquitto,
    UsersWithVerifier,
    JwtEs256,
    JwtRs256,
    JwtHs256,
    Http,
    Scram,
    JwtByAuth,
    DeviceToken,
    DeviceOfIotCore,
    DeviceCertificate,
    DeviceTokenByAuth,
}

const ROWS: [Row; 15] = [
    Row::Anonymous,
    Row::Certificate,
    Row::Users,
    Row::UsersOfMosquitto,
    Row::UsersWithVerifier,
    Row::JwtEs256,
    Row::JwtRs256,
    Row::JwtHs256,
    Row::Http,
    Row::Scram,
    Row::JwtByAuth,
    Row::DeviceToken,
    Row::DeviceOfIotCore,
    Row::DeviceCertificate,
    Row::DeviceTokenByAuth,
];

/// What a client is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// CONNACK; 3.1 and 3.1.1 have codes of their own.
    Code(ReasonCode),
    /// Its certificate is refused in the TLS handshake: there is no CONNACK.
    Tls,
    /// There is no such cell, for this reason.
    Not(&'static str),
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "{:#04x}", code.0),
            Self::Tls => f.write_str("tls"),
            Self::Not(_) => f.write_str("-"),
        }
    }
}

const OK: Told = Told::Code(ReasonCode::SUCCESS);
const BAD: Told = Told::Code(ReasonCode::BAD_USER_NAME_OR_PASSWORD);
const NOT: Told = Told::Code(ReasonCode::NOT_AUTHORIZED);

/// What must be told.
fn expected(row: Row, version: Version, kind: Kind, given: Given) -> Told {
    if matches!(row, Row::Certificate | Row::DeviceCertificate) && !kind.is_tls() {
        return Told::Not("certificates are shown in TLS");
    }
    let by_auth = matches!(row, Row::Scram | Row::JwtByAuth | Row::DeviceTokenByAuth);
    if by_auth && !version.is_v5() {
        return Told::Not("AUTH came with MQTT 5.0");
    }
    match (row, given) {
        (_, Given::Right) => OK,
        (_, Given::Missing) => NOT,
        (Row::Anonymous, Given::Wrong) => BAD,
        (Row::Anonymous, _) => Told::Not("who shows nothing shows nothing that could end"),
        (Row::Certificate, _) => Told::Tls,
        (
            Row::Users | Row::UsersOfMosquitto | Row::UsersWithVerifier | Row::Scram,
            Given::Expired,
        ) => Told::Not("passwords of the users file have no end"),
        (Row::JwtHs256, Given::Revoked) => {
            Told::Not("there is one secret: without it there is no HS256")
        }
        // Blocked: who it is is known.
        (Row::DeviceToken | Row::DeviceOfIotCore | Row::DeviceCertificate, Given::Revoked) => NOT,
        (Row::DeviceCertificate, _) => Told::Tls,
        (Row::Scram | Row::JwtByAuth | Row::DeviceTokenByAuth, _) => NOT,
        (_, Given::Expired) => NOT,
        (_, Given::Wrong | Given::Revoked) => BAD,
    }
}

/// The codes of CONNACK before MQTT 5.
fn as_told(told: Told, version: Version) -> Told {
    match told {
        BAD if !version.is_v5() => Told::Code(ReasonCode(4)),
        NOT if !version.is_v5() => Told::Code(ReasonCode(5)),
        other => other,
    }
}

/// The client id.
fn client_id(row: Row, given: Given) -> &'static str {
    match (row, given) {
        (Row::DeviceToken | Row::DeviceTokenByAuth, Given::Revoked) => "gone-pump",
        (Row::DeviceToken | Row::DeviceTokenByAuth, _) => "pump",
        (Row::DeviceOfIotCore, Given::Revoked) => {
            "projects/p/locations/l/registries/r/devices/gone-core"
        }
        (Row::DeviceOfIotCore, _) => "projects/p/locations/l/registries/r/devices/core",
        (Row::DeviceCertificate, Given::Revoked) => "gone-valve",
        (Row::DeviceCertificate, _) => "valve",
        _ => "device",
    }
}

/// A token of a device; its clock may be ten minutes off.
fn device_token(signer: &Signer, given: Given, audience: &str) -> Option<String> {
    let claims =
        |issued: u64, end: u64| format!(r#"{{"aud":"{audience}","iat":{issued},"exp":{end}}}"#);
    match given {
        Given::Missing => None,
        Given::Expired => Some(signer.sign(None, &claims(now() - 1_800, now() - 700))),
        Given::Wrong => Some(Signer::es256().sign(None, &claims(now(), now() + 600))),
        _ => Some(signer.sign(None, &claims(now(), now() + 600))),
    }
}

/// The listener, and what the client shows.
fn shown(world: &World, row: Row, given: Given) -> (&'static str, Shown, Option<&'static str>) {
    let password = if given == Given::Wrong {
        "wrong"
    } else {
        "right"
    };
    let named = |stays: &str, goes: &str| match given {
        Given::Missing => Shown::default(),
        Given::Revoked => Shown::named(goes, password),
        _ => Shown::named(stays, password),
    };
    let token = |right: &Signer, id: Option<&str>, gone: &Signer, gone_id: Option<&str>| {
        let end = if given == Given::Expired {
            now() - 1
        } else {
            now() + 600
        };
        let signer = match given {
            Given::Revoked => gone.token(gone_id, "device", end),
            _ => right.token(id, "device", end),
        };
        match given {
            // Another key has signed it, under the same name.
            Given::Wrong => {
                let other = match right {
                    Signer::Es256(_) => Signer::es256().token(id, "device", end),
                    Signer::Hs256(_) => Signer::hs256(&[7; 32]).token(id, "device", end),
                    Signer::Rs256(_) => {
                        let mut token = signer;
                        let last = token.len() - 20;
                        let changed = if &token[last..=last] == "A" { "B" } else { "A" };
                        token.replace_range(last..=last, changed);
                        token
                    }
                };
                Some(other)
            }
            Given::Missing => None,
            _ => Some(signer),
        }
    };
    let in_password = |token: Option<String>| match token {
        Some(token) => Shown::named("unused", &token),
        None => Shown::default(),
    };
    match row {
        Row::Anonymous => match given {
            Given::Missing => ("none", Shown::default(), None),
            Given::Wrong => ("anonymous", Shown::named("ann", "wrong"), None),
            _ => ("anonymous", Shown::default(), None),
        },
        Row::Certificate => {
            let certificate = match given {
                Given::Right => Some("good"),
                Given::Wrong => Some("stranger"),
                Given::Missing => None,
                Given::Expired => Some("expired"),
                Given::Revoked => Some("revoked"),
            };
            ("certificate", Shown::default(), certificate)
        }
        Row::Users => ("users", named("ann", "gone"), None),
        Row::UsersOfMosquitto => ("users", named("moe", "gone"), None),
        Row::UsersWithVerifier => ("users", named("sue", "gone-sue"), None),
        Row::JwtEs256 => {
            let token = token(&world.ec, Some("stays"), &world.ec_gone, Some("goes"));
            ("jwt", in_password(token), None)
        }
        Row::JwtRs256 => {
            let token = token(&world.rsa, Some("rsa"), &world.rsa_gone, Some("rsa-gone"));
            ("jwt", in_password(token), None)
        }
        Row::JwtHs256 => (
            "jwt",
            in_password(token(&world.hs, None, &world.hs, None)),
            None,
        ),
        Row::Http => {
            let shown = match given {
                Given::Expired => Shown::named("cat", "over"),
                _ => named("cat", "gone-cat"),
            };
            ("http", shown, None)
        }
        Row::DeviceToken => {
            let token = device_token(&world.pump, given, "any");
            ("registry", in_password(token), None)
        }
        Row::DeviceOfIotCore => {
            let token = device_token(&world.rsa, given, "p");
            ("registry", in_password(token), None)
        }
        Row::DeviceCertificate => {
            let certificate = match given {
                Given::Right => Some("valve"),
                Given::Wrong => Some("stranger"),
                Given::Missing => None,
                Given::Expired => Some("expired"),
                Given::Revoked => Some("gone-valve"),
            };
            ("registry", Shown::default(), certificate)
        }
        Row::DeviceTokenByAuth => {
            let token = device_token(&world.pump, given, "any");
            let enhanced = Some((TOKEN, token.map(String::into_bytes)));
            let shown = Shown {
                enhanced,
                ..Shown::default()
            };
            ("registry", shown, None)
        }
        Row::Scram | Row::JwtByAuth if given == Given::Missing => {
            // The method, and nothing of it.
            let method = if row == Row::Scram { SCRAM } else { TOKEN };
            let data = (row == Row::Scram).then(|| b"n,,n=,r=".to_vec());
            let enhanced = Some((method, data));
            (
                "scram",
                Shown {
                    enhanced,
                    ..Shown::default()
                },
                None,
            )
        }
        Row::Scram => ("scram", named("sue", "gone-sue"), None),
        Row::JwtByAuth => {
            let token = token(&world.ec, Some("stays"), &world.ec_gone, Some("goes"));
            let enhanced = Some((TOKEN, token.map(String::into_bytes)));
            (
                "scram",
                Shown {
                    enhanced,
                    ..Shown::default()
                },
                None,
            )
        }
    }
}

/// What the client is told.
fn ask(world: &World, row: Row, version: Version, kind: Kind, given: Given) -> Told {
    let (method, shown, certificate) = shown(world, row, given);
    let name = format!("{method}-{}", kind.word());
    let address = world.broker.addresses[&name];
    let tls = authority::client(world.at(), certificate);
    let outcome = (|| -> io::Result<ReasonCode> {
        let mut client = Client::open(kind, address, &tls, version)?;
        if row == Row::Scram && given != Given::Missing {
            let (user, password) = (shown.username.unwrap(), shown.password.unwrap());
            let (kind, reason) = scram(&mut client, &user, &password);
            assert_eq!(kind, Answer::ConnAck);
            return Ok(reason);
        }
        shown.send(&mut client, client_id(row, given))?;
        client.connack()
    })();
    match outcome {
        Ok(code) => Told::Code(code),
        Err(error) if matches!(row, Row::Certificate | Row::DeviceCertificate) => {
            let text = error.to_string();
            assert!(
                ["alert", "Alert", "reset", "closed", "eof", "pipe"]
                    .iter()
                    .any(|word| text.contains(word)),
                "{text}"
            );
            Told::Tls
        }
        Err(error) => panic!(
            "{row:?} {version:?} {kind:?} {given:?}: {error}\n{}",
            world.broker.log()
        ),
    }
}

// [MQTT-3.1.4-2] v5 [MQTT-4.12.0-1] v5 [MQTT-4.12.0-4] v5
#[test]
fn every_method_version_listener_and_credential_has_its_code() {
    let mut world = World::start("");
    world.add_devices();
    // The service's keys come when they are first asked for, or before.
    let mut table = BTreeMap::new();
    let mut reasons = BTreeMap::new();
    let mut wrong = Vec::new();
    let (mut asked, mut without) = (0, 0);
    // Keys that are taken out, of a file and of the service.
    let keys = [Row::JwtEs256, Row::JwtRs256];
    for row in keys {
        let before = ask(&world, row, Version::V5, Kind::Tcp, Given::Revoked);
        assert_eq!(before, OK, "{row:?}");
    }
    for revoked in [false, true] {
        if revoked {
            world.remove_users(&["gone", "gone-sue"]);
            world.put(
                "goes.json",
                &format!("{{\"keys\":[{}]}}", Signer::es256().jwk("new")),
            );
            for device in ["gone-pump", "gone-core", "gone-valve"] {
                world.devices(&["block", device, "--reason", "stolen"]);
            }
            world
                .service
                .state
                .denied
                .lock()
                .push("gone-cat".to_owned());
            *world.service.state.keys.lock() = format!("{{\"keys\":[{}]}}", world.rsa.jwk("rsa"));
            world.broker.wait_for("the users file was read again", 1);
            for row in keys {
                let end = std::time::Instant::now() + crate::client::LIMIT;
                while ask(&world, row, Version::V5, Kind::Tcp, Given::Revoked) == OK {
                    assert!(std::time::Instant::now() < end, "the key is still taken");
                }
            }
        }
        for (index, row) in ROWS.into_iter().enumerate() {
            for (version, word) in VERSIONS {
                for kind in Kind::ALL {
                    for given in GIVEN
                        .into_iter()
                        .filter(|given| (*given == Given::Revoked) == revoked)
                    {
                        let must = as_told(expected(row, version, kind, given), version);
                        let cell = (index, row, word, kind.word());
                        if let Told::Not(why) = must {
                            without += 1;
                            *reasons.entry(why).or_insert(0) += 1;
                            table
                                .entry(cell)
                                .or_insert_with(Vec::new)
                                .push((given, must));
                            continue;
                        }
                        asked += 1;
                        let told = ask(&world, row, version, kind, given);
                        if told != must {
                            wrong.push(format!(
                                "{row:?} {word} {} {given:?}: {told}, and must be {must}",
                                kind.word()
                            ));
                        }
                        table
                            .entry(cell)
                            .or_insert_with(Vec::new)
                            .push((given, told));
                    }
                }
            }
        }
    }
    println!(
        "{:<18} {:<6} {:<4}  right wrong missing expired revoked",
        "method", "mqtt", "over"
    );
    for ((_, row, version, kind), cells) in &table {
        let cells: Vec<_> = cells.iter().map(|(_, told)| format!("{told:>5}")).collect();
        println!(
            "{:<18} {version:<6} {kind:<4}  {}",
            format!("{row:?}"),
            cells.join("  ")
        );
    }
    println!("{asked} cells asked, {without} that cannot be:");
    for (why, count) in reasons {
        println!("  {count:>3}  {why}");
    }
    assert!(
        wrong.is_empty(),
        "{}\n{}",
        wrong.join("\n"),
        world.broker.log()
    );
    assert_eq!(
        asked + without,
        ROWS.len() * VERSIONS.len() * Kind::ALL.len() * GIVEN.len()
    );
}

//! Authentication by AUTH packets.

use std::num::NonZeroU32;

use base64ct::{Base64, Encoding};
use dunlin_protocol::{Packet, ReasonCode, Version};
use ring::{digest, hmac, pbkdf2};

use crate::{
    authority,
    client::{Answer, Client, Kind, Shown},
    tokens::now,
    world::World,
};

pub const SCRAM: &str = "SCRAM-SHA-256";
pub const TOKEN: &str = "JWT";

fn mac(key: &[u8], message: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message)
        .as_ref()
        .to_vec()
}

/// The client's last message, and what the server must prove.
fn prove(first_bare: &str, server_first: &[u8], password: &str) -> (String, String) {
    let server_first = std::str::from_utf8(server_first).unwrap();
    let mut parts = server_first.split(',');
    let nonce = parts.next().unwrap().strip_prefix("r=").unwrap();
    let salt = Base64::decode_vec(parts.next().unwrap().strip_prefix("s=").unwrap()).unwrap();
    let rounds: NonZeroU32 = parts
        .next()
        .unwrap()
        .strip_prefix("i=")
        .unwrap()
        .parse()
        .unwrap();
    let mut salted = [0; 32];
    pbkdf2::derive(
        pbkdf2::PBKDF2_HMAC_SHA256,
        rounds,
        &salt,
        password.as_bytes(),
        &mut salted,
    );
    let key = mac(&salted, b"Client Key");
    let stored = digest::digest(&digest::SHA256, &key);
    let without = format!("c=biws,r={nonce}");
    let signed = format!("{first_bare},{server_first},{without}");
    let mut proof = mac(stored.as_ref(), signed.as_bytes());
    proof.iter_mut().zip(&key).for_each(|(a, b)| *a ^= b);
    let server = mac(&mac(&salted, b"Server Key"), signed.as_bytes());
    (
        format!("{without},p={}", Base64::encode_string(&proof)),
        format!("v={}", Base64::encode_string(&server)),
    )
}

/// Authenticates from CONNECT on; what it ends with.
pub fn scram(client: &mut Client, user: &str, password: &str) -> (Answer, ReasonCode) {
    let bare = format!("n={user},r=fyko+d2lbbFgONRv9qkxdawL");
    let first = format!("n,,{bare}");
    let shown = Shown {
        enhanced: Some((SCRAM, Some(first.into_bytes()))),
        ..Shown::default()
    };
    shown.send(client, "device").unwrap();
    go_on(client, &bare, password)
}

/// Goes on from the server's first message.
fn go_on(client: &mut Client, bare: &str, password: &str) -> (Answer, ReasonCode) {
    let (kind, reason, method, data) = client.answer();
    if kind != Answer::Auth {
        return (kind, reason);
    }
    assert_eq!(
        (reason, method.as_deref()),
        (ReasonCode::CONTINUE_AUTHENTICATION, Some(SCRAM))
    );
    let (last, proof) = prove(bare, &data, password);
    client.auth(
        ReasonCode::CONTINUE_AUTHENTICATION,
        SCRAM,
        Some(last.as_bytes()),
    );
    let (kind, reason, method, data) = client.answer();
    if reason == ReasonCode::SUCCESS {
        assert_eq!(method.as_deref(), Some(SCRAM));
        assert_eq!(
            String::from_utf8(data).unwrap(),
            proof,
            "the server has proved itself"
        );
    }
    (kind, reason)
}

fn open(world: &World) -> Client {
    let address = world.broker.addresses["scram-tcp"];
    Client::open(
        Kind::Tcp,
        address,
        &authority::client(world.at(), None),
        Version::V5,
    )
    .unwrap()
}

fn by_token(world: &World, client_id: &str, sub: &str, end: u64) -> Client {
    let mut client = open(world);
    let token = world.ec.token(Some("stays"), sub, end);
    let shown = Shown {
        enhanced: Some((TOKEN, Some(token.into_bytes()))),
        ..Shown::default()
    };
    shown.send(&mut client, client_id).unwrap();
    let (kind, reason, method, _) = client.answer();
    assert_eq!(
        (kind, reason, method.as_deref()),
        (Answer::ConnAck, ReasonCode::SUCCESS, Some(TOKEN))
    );
    client
}

// [MQTT-4.12.0-2] v5 [MQTT-4.12.0-5] v5
#[test]
fn scram_goes_by_auth_packets_that_repeat_the_method() {
    let world = World::start("");
    let mut client = open(&world);
    assert_eq!(
        scram(&mut client, "sue", "right"),
        (Answer::ConnAck, ReasonCode::SUCCESS)
    );
    client.ping();
    for (user, password) in [("sue", "wrong"), ("nobody", "right"), ("ann", "right")] {
        let mut client = open(&world);
        // Also for names that there are not, or that have no verifier, there is a salt.
        assert_eq!(
            scram(&mut client, user, password),
            (Answer::ConnAck, ReasonCode::NOT_AUTHORIZED),
            "{user}"
        );
    }
}

#[test]
fn a_client_that_says_nothing_at_first_is_asked() {
    let world = World::start("");
    let mut client = open(&world);
    let shown = Shown {
        enhanced: Some((SCRAM, None)),
        ..Shown::default()
    };
    shown.send(&mut client, "device").unwrap();
    let (kind, reason, method, data) = client.answer();
    assert_eq!(
        (kind, reason),
        (Answer::Auth, ReasonCode::CONTINUE_AUTHENTICATION)
    );
    assert_eq!((method.as_deref(), &*data), (Some(SCRAM), &b""[..]));
    let bare = "n=sue,r=fyko+d2lbbFgONRv9qkxdawL";
    client.auth(
        ReasonCode::CONTINUE_AUTHENTICATION,
        SCRAM,
        Some(format!("n,,{bare}").as_bytes()),
    );
    assert_eq!(
        go_on(&mut client, bare, "right"),
        (Answer::ConnAck, ReasonCode::SUCCESS)
    );
}

// [MQTT-3.1.2-30] v5 [MQTT-4.12.0-3] v5
#[test]
fn before_connack_nothing_but_auth_of_the_same_method_is_taken() {
    let world = World::start("");
    let begun = || {
        let mut client = open(&world);
        let shown = Shown {
            enhanced: Some((SCRAM, None)),
            ..Shown::default()
        };
        shown.send(&mut client, "device").unwrap();
        assert_eq!(client.answer().0, Answer::Auth);
        client
    };
    let mut client = begun();
    client.send(&Packet::PingReq).unwrap();
    assert_eq!(client.connack().unwrap(), ReasonCode::PROTOCOL_ERROR);
    for (reason, method) in [
        (ReasonCode::CONTINUE_AUTHENTICATION, TOKEN),
        (ReasonCode::RE_AUTHENTICATE, SCRAM),
    ] {
        let mut client = begun();
        client.auth(reason, method, Some(b"x"));
        assert_eq!(
            client.connack().unwrap(),
            ReasonCode::PROTOCOL_ERROR,
            "{reason:?} {method}"
        );
    }
    let mut client = begun();
    client.auth(
        ReasonCode::CONTINUE_AUTHENTICATION,
        SCRAM,
        Some(b"nonsense"),
    );
    assert_eq!(client.connack().unwrap(), ReasonCode::NOT_AUTHORIZED);
}

#[test]
fn methods_that_a_listener_does_not_have_are_not_offered() {
    let world = World::start("");
    for (listener, method) in [
        ("users-tcp", SCRAM),
        ("users-tcp", TOKEN),
        ("scram-tcp", "SCRAM-SHA-1"),
        ("jwt-tcp", SCRAM),
    ] {
        let address = world.broker.addresses[listener];
        let tls = authority::client(world.at(), None);
        let mut client = Client::open(Kind::Tcp, address, &tls, Version::V5).unwrap();
        let shown = Shown {
            enhanced: Some((method, Some(b"n,,n=sue,r=abc".to_vec()))),
            ..Shown::default()
        };
        shown.send(&mut client, "device").unwrap();
        assert_eq!(
            client.connack().unwrap(),
            ReasonCode::BAD_AUTHENTICATION_METHOD,
            "{listener} {method}"
        );
    }
}

// [MQTT-4.12.1-1] v5 [MQTT-4.12.1-2] v5
#[test]
fn a_connected_client_authenticates_again_and_one_that_fails_is_disconnected() {
    let world = World::start("");
    let bare = "n=sue,r=again";
    let again = |client: &mut Client| {
        client.auth(
            ReasonCode::RE_AUTHENTICATE,
            SCRAM,
            Some(format!("n,,{bare}").as_bytes()),
        );
    };
    let connected = || {
        let mut client = open(&world);
        assert_eq!(
            scram(&mut client, "sue", "right"),
            (Answer::ConnAck, ReasonCode::SUCCESS)
        );
        client
    };
    let mut client = connected();
    for _ in 0..3 {
        again(&mut client);
        assert_eq!(
            go_on(&mut client, bare, "right"),
            (Answer::Auth, ReasonCode::SUCCESS)
        );
        client.ping();
    }
    again(&mut client);
    assert_eq!(
        go_on(&mut client, bare, "wrong"),
        (Answer::Disconnect, ReasonCode::NOT_AUTHORIZED)
    );

    let mut client = connected();
    client.auth(ReasonCode::RE_AUTHENTICATE, TOKEN, Some(b"x"));
    assert_eq!(client.disconnect(), ReasonCode::PROTOCOL_ERROR);
    let mut client = connected();
    client.auth(ReasonCode::CONTINUE_AUTHENTICATION, SCRAM, Some(b"x"));
    assert_eq!(client.disconnect(), ReasonCode::PROTOCOL_ERROR);
    let mut client = connected();
    again(&mut client);
    again(&mut client);
    let (_, reason, ..) = client.answer();
    let reason = if reason == ReasonCode::CONTINUE_AUTHENTICATION {
        client.disconnect()
    } else {
        reason
    };
    assert_eq!(reason, ReasonCode::PROTOCOL_ERROR);
}

#[test]
fn a_device_renews_its_token_while_it_stays_connected() {
    let world = World::start("");
    let renew = |client: &mut Client, sub: &str, end: u64| {
        let token = world.ec.token(Some("stays"), sub, end);
        client.auth(ReasonCode::RE_AUTHENTICATE, TOKEN, Some(token.as_bytes()));
        let (kind, reason, ..) = client.answer();
        (kind, reason)
    };
    let end = now() + 3;
    let mut renewed = by_token(&world, "renewed", "device", end);
    let mut left = by_token(&world, "left", "device", end);
    assert_eq!(
        renew(&mut renewed, "device", now() + 600),
        (Answer::Auth, ReasonCode::SUCCESS)
    );
    // Both were to end then.
    assert_eq!(left.disconnect(), ReasonCode::MAXIMUM_CONNECT_TIME);
    assert!(now() >= end);
    renewed.ping();

    let mut client = by_token(&world, "device", "device", now() + 600);
    assert_eq!(
        renew(&mut client, "somebody", now() + 600),
        (Answer::Disconnect, ReasonCode::NOT_AUTHORIZED)
    );
    let mut client = by_token(&world, "device", "device", now() + 600);
    assert_eq!(
        renew(&mut client, "device", now() - 10),
        (Answer::Disconnect, ReasonCode::NOT_AUTHORIZED)
    );
}

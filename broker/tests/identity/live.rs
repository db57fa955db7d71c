//! What is withdrawn, or over, ends the connections that it has let in; what is away holds as it was said.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use dunlin_protocol::{ReasonCode, Version};

use crate::{
    authority,
    client::{Client, Kind, LIMIT, Shown},
    enhanced::scram,
    tokens::{Signer, now},
    world::{LATER, REVOKED, World},
};

fn open(world: &World, listener: &str, kind: Kind, certificate: Option<&str>) -> Client {
    let address = world.broker.addresses[&format!("{listener}-{}", kind.word())];
    let tls = authority::client(world.at(), certificate);
    Client::open(kind, address, &tls, Version::V5).unwrap()
}

fn ask(world: &World, listener: &str, client_id: &str, shown: &Shown) -> (Client, ReasonCode) {
    let mut client = open(world, listener, Kind::Tcp, None);
    shown.send(&mut client, client_id).unwrap();
    let reason = client.connack().unwrap();
    (client, reason)
}

fn connect(world: &World, listener: &str, client_id: &str, shown: &Shown) -> Client {
    let (client, reason) = ask(world, listener, client_id, shown);
    assert_eq!(reason, ReasonCode::SUCCESS, "{shown:?}");
    client
}

fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < end, "waited {LIMIT:?} for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn who_was_let_in_by_what_is_withdrawn_is_disconnected() {
    let world = World::start("");
    let end = now() + 600;
    let by_password = |name: &str| connect(&world, "users", name, &Shown::named(name, "right"));
    let by_token = |id: &str, signer: &Signer| {
        let token = signer.token(Some(id), "device", end);
        connect(&world, "jwt", id, &Shown::named("unused", &token))
    };
    let mut stay = [
        by_password("ann"),
        by_password("moe"),
        by_token("stays", &world.ec),
    ];
    let mut scrammed = open(&world, "scram", Kind::Tcp, None);
    assert_eq!(
        scram(&mut scrammed, "gone-sue", "right").1,
        ReasonCode::SUCCESS
    );
    let mut certified = open(&world, "certificate", Kind::Tls, Some("later"));
    Shown::default().send(&mut certified, "later").unwrap();
    assert_eq!(certified.connack().unwrap(), ReasonCode::SUCCESS);
    let mut go = [
        by_password("gone"),
        by_token("goes", &world.ec_gone),
        scrammed,
        certified,
    ];

    let began = Instant::now();
    world.remove_users(&["gone", "gone-sue"]);
    world.put("goes.json", &world.ec.jwk("another"));
    world
        .authority
        .revoke(&world.at().join("crl.pem"), &[REVOKED, LATER]);
    for client in &mut go {
        assert_eq!(client.disconnect(), ReasonCode::NOT_AUTHORIZED);
    }
    println!(
        "withdrawn from users file, keys and revoked certificates: all four clients were told after {:?} (files are looked at every 50 ms)",
        began.elapsed()
    );
    stay.iter_mut().for_each(Client::ping);
    // It does not come back, with its ticket of before neither.
    let mut again = open(&world, "certificate", Kind::Tls, Some("later"));
    let told = Shown::default()
        .send(&mut again, "later")
        .and_then(|()| again.connack());
    assert!(told.is_err(), "{told:?}");
}

#[test]
fn a_resumed_handshake_of_a_revoked_certificate_is_of_no_use() {
    let mut world = World::start("");
    let address = world.broker.addresses["certificate-tls"];
    // One configuration keeps its tickets.
    let tls = authority::client(world.at(), Some("later"));
    for _ in 0..2 {
        let mut client = Client::open(Kind::Tls, address, &tls, Version::V5).unwrap();
        Shown::default().send(&mut client, "later").unwrap();
        assert_eq!(client.connack().unwrap(), ReasonCode::SUCCESS);
        client.ping();
    }
    world
        .authority
        .revoke(&world.at().join("crl.pem"), &[LATER]);
    world
        .broker
        .wait_for("the lists of revoked certificates were read again", 1);
    let told = Client::open(Kind::Tls, address, &tls, Version::V5).and_then(|mut client| {
        Shown::default().send(&mut client, "later")?;
        client.connack()
    });
    assert!(
        told.is_err()
            || told
                .as_ref()
                .is_ok_and(|code| *code == ReasonCode::NOT_AUTHORIZED),
        "{told:?}"
    );
}

#[test]
fn a_token_and_what_a_service_says_end_when_they_say() {
    let world = World::start("");
    let end = now() + 2;
    let token = world.hs.token(None, "device", end);
    let mut by_token = connect(&world, "jwt", "token", &Shown::named("unused", &token));
    let mut by_service = connect(&world, "http", "service", &Shown::named("cat", "soon"));
    let mut stays = connect(&world, "http", "stays", &Shown::named("cat", "right"));
    assert_eq!(by_token.disconnect(), ReasonCode::MAXIMUM_CONNECT_TIME);
    assert!(now() >= end);
    assert_eq!(by_service.disconnect(), ReasonCode::MAXIMUM_CONNECT_TIME);
    stays.ping();
    // 3.1.1 has no words for it: the connection ends.
    let token = world.hs.token(None, "device", now() + 2);
    let address = world.broker.addresses["jwt-tcp"];
    let tls = authority::client(world.at(), None);
    let mut old = Client::open(Kind::Tcp, address, &tls, Version::V311).unwrap();
    Shown::named("unused", &token)
        .send(&mut old, "old")
        .unwrap();
    assert_eq!(old.connack().unwrap(), ReasonCode::SUCCESS);
    assert!(old.next(|_| ()).is_err());
}

#[test]
fn a_service_that_is_away_lets_nobody_in_and_is_not_waited_for() {
    let world = World::start("timeout_ms = 500");
    let right = Shown::named("cat", "right");
    drop(connect(&world, "http", "a", &right));
    let question = world.service.state.last.lock().clone();
    assert_eq!(
        (
            question["client_id"].as_str(),
            question["username"].as_str(),
            question["listener"].as_str()
        ),
        (Some("a"), Some("cat"), Some("http-tcp"))
    );
    world.service.state.broken.store(true, Ordering::SeqCst);
    for _ in 0..8 {
        assert_eq!(
            ask(&world, "http", "a", &right).1,
            ReasonCode::SERVER_UNAVAILABLE
        );
    }
    world.service.state.broken.store(false, Ordering::SeqCst);
    let asked = world.service.state.asked.load(Ordering::SeqCst);
    wait_for("the service is asked again", || {
        ask(&world, "http", "a", &right).1 == ReasonCode::SUCCESS
    });
    assert!(world.service.state.asked.load(Ordering::SeqCst) > asked);
    assert_eq!(
        ask(&world, "http", "a", &Shown::named("cat", "other")).1,
        ReasonCode::BAD_USER_NAME_OR_PASSWORD
    );
}

#[test]
fn keys_of_a_service_are_fetched_once_for_a_key_that_is_not_known_and_kept_while_it_is_away() {
    let mut world = World::start("");
    world.broker.wait_for("the keys of tokens were fetched", 1);
    let token =
        |id: &str| Shown::named("unused", &world.rsa.token(Some(id), "device", now() + 600));
    assert_eq!(
        ask(&world, "jwt", "a", &token("rsa")).1,
        ReasonCode::SUCCESS
    );
    world.service.state.broken.store(true, Ordering::SeqCst);
    let before = world.service.state.fetched.load(Ordering::SeqCst);
    for _ in 0..20 {
        assert_eq!(
            ask(&world, "jwt", "a", &token("unknown")).1,
            ReasonCode::BAD_USER_NAME_OR_PASSWORD
        );
        assert_eq!(
            ask(&world, "jwt", "a", &token("rsa")).1,
            ReasonCode::SUCCESS
        );
    }
    assert_eq!(
        world.service.state.fetched.load(Ordering::SeqCst),
        before,
        "it is away"
    );
    world.service.state.broken.store(false, Ordering::SeqCst);
    *world.service.state.keys.lock() = format!("{{\"keys\":[{}]}}", world.rsa.jwk("newer"));
    let mut held = connect(&world, "jwt", "held", &token("rsa"));
    wait_for("the newer key", || {
        ask(&world, "jwt", "a", &token("newer")).1 == ReasonCode::SUCCESS
    });
    // Whoever came by the key that is gone goes, too.
    assert_eq!(held.disconnect(), ReasonCode::NOT_AUTHORIZED);
}

#[test]
fn a_token_is_for_an_audience_and_names_who_it_is_for() {
    let world = World::start("");
    let end = now() + 600;
    for (claims, code) in [
        (
            format!(r#"{{"sub":"a","aud":["x","dunlin"],"exp":{end}}}"#),
            ReasonCode::SUCCESS,
        ),
        (
            format!(r#"{{"sub":"a","aud":"other","exp":{end}}}"#),
            ReasonCode::NOT_AUTHORIZED,
        ),
        (
            format!(r#"{{"sub":"a","exp":{end}}}"#),
            ReasonCode::NOT_AUTHORIZED,
        ),
        (
            r#"{"sub":"a","aud":"dunlin"}"#.to_owned(),
            ReasonCode::NOT_AUTHORIZED,
        ),
        (
            format!(r#"{{"aud":"dunlin","exp":{end}}}"#),
            ReasonCode::NOT_AUTHORIZED,
        ),
        (
            format!(r#"{{"sub":"a","aud":"dunlin","exp":{end},"nbf":{end}}}"#),
            ReasonCode::NOT_AUTHORIZED,
        ),
    ] {
        let token = world.hs.sign(None, &claims);
        assert_eq!(
            ask(&world, "jwt", "a", &Shown::named("unused", &token)).1,
            code,
            "{claims}"
        );
    }
}

#[test]
fn certificates_are_chosen_by_name_and_tls_1_2_can_be_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let authority = crate::authority::Authority::new("the authority");
    std::fs::write(at.join("ca.pem"), &authority.certificate).unwrap();
    for (serial, name) in [(1, "localhost"), (2, "other.example"), (3, "wild.example")] {
        authority.sign(at, name, serial, false);
    }
    let file = |name: &str| format!("{:?}", at.join(name).to_str().unwrap());
    let entry = |name: &str| {
        format!(
            "certificate = {}\nkey = {}\n",
            file(&format!("{name}.pem")),
            file(&format!("{name}.key"))
        )
    };
    let config = format!(
        "[auth]\nanonymous = true\n[[listener]]\nname = \"named\"\ntype = \"tls\"\naddress = \"127.0.0.1:0\"\n[listener.tls]\n{}\
         [[listener.tls.sni]]\n{}[[listener.tls.sni]]\nnames = [\"*.wild.example\"]\n{}\
         [[listener]]\nname = \"new\"\ntype = \"tls\"\naddress = \"127.0.0.1:0\"\n[listener.tls]\nmin_version = \"1.3\"\n{}",
        entry("localhost"),
        entry("other.example"),
        entry("wild.example"),
        entry("localhost"),
    );
    let broker = crate::broker::Broker::start(at, &config);
    let tls = authority::client(at, None);
    // The client checks that the certificate is for the host: all but the last get theirs.
    for (host, good) in [
        ("localhost", true),
        ("other.example", true),
        ("x.wild.example", false),
        ("unknown.example", false),
    ] {
        let opened = Client::open_as(
            Kind::Tls,
            broker.addresses["named"],
            &tls,
            Version::V5,
            host,
        );
        assert_eq!(opened.is_ok(), good, "{host}");
        if !good {
            let text = opened.err().unwrap().to_string();
            let shown = if host.contains("wild") {
                "wild.example"
            } else {
                "localhost"
            };
            assert!(text.contains(shown), "{host}: {text}");
        }
    }
    let old = authority::client_of(at, None, &[&rustls::version::TLS12]);
    assert!(Client::open(Kind::Tls, broker.addresses["named"], &old, Version::V5).is_ok());
    assert!(Client::open(Kind::Tls, broker.addresses["new"], &old, Version::V5).is_err());
    assert!(Client::open(Kind::Tls, broker.addresses["new"], &tls, Version::V5).is_ok());
}

#[test]
fn roles_and_tenants_of_names_change_while_they_are_connected() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let users = at.join("users");
    for name in ["ann", "bob"] {
        crate::world::passwd(&users, name, true);
    }
    let config = |more: &str| {
        format!(
            "[auth]\nanonymous = false\nusers = {users:?}\n{more}\
             [[auth.rules]]\neffect = \"allow\"\ntopics = [\"work/#\"]\nroles = [\"worker\"]\n\
             [[tenant]]\nname = \"acme\"\n\
             [[listener]]\nname = \"users-tcp\"\naddress = \"127.0.0.1:0\"\n"
        )
    };
    let worker = "[[auth.user]]\nname = \"ann\"\nroles = [\"worker\"]\n";
    let mut broker = crate::broker::Broker::start(at, &config(worker));
    let tls = authority::nobody();
    let open = |name: &str| {
        let mut client =
            Client::open(Kind::Tcp, broker.addresses["users-tcp"], &tls, Version::V5).unwrap();
        Shown::named(name, "right").send(&mut client, name).unwrap();
        assert_eq!(client.connack().unwrap(), ReasonCode::SUCCESS);
        client
    };
    let (mut ann, mut bob) = (open("ann"), open("bob"));
    assert_eq!(ann.subscribe("work/1"), ReasonCode::SUCCESS);
    assert_eq!(bob.subscribe("work/1"), ReasonCode::NOT_AUTHORIZED);
    // Bob becomes a worker, and ann is one no more: she is told, as she has lost something.
    broker.reload(&config(&worker.replace("ann", "bob")));
    assert_eq!(ann.disconnect(), ReasonCode::NOT_AUTHORIZED);
    assert_eq!(bob.subscribe("work/1"), ReasonCode::SUCCESS);
    // And now he is of a tenant: he has to come again.
    broker.reload(&config(&format!(
        "{}tenant = \"acme\"\n",
        worker.replace("ann", "bob")
    )));
    assert_eq!(bob.disconnect(), ReasonCode::NOT_AUTHORIZED);
}

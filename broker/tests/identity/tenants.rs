//! The tenant in the subject of a client's certificate: who belongs to it, who is refused and why.

use std::io;

use dunlin_protocol::{ReasonCode, Version};
use rcgen::DnType;

use crate::{
    authority,
    client::{Client, Kind, Shown},
    world::World,
};

/// Not authorized, before MQTT 5.
const NOT_BEFORE: ReasonCode = ReasonCode(5);

/// Listeners that take the tenant from certificates.
fn listeners() -> String {
    let mut text = "[[tenant]]\nname = \"acme\"\n[[tenant]]\nname = \"b\"\n\
        [[auth.user]]\nname = \"moved\"\ntenant = \"b\"\n\
        [audit]\nto = \"log\"\nevents = \"all\"\n"
        .to_owned();
    for (name, more) in [
        ("ou", "tenant_from = \"ou\"\nname_from = \"cn\""),
        ("o", "tenant_from = \"o\"\nname_from = \"cn\""),
        ("of-b", "tenant_from = \"ou\"\nname_from = \"cn\""),
        ("device", "tenant_from = \"ou\""),
    ] {
        for kind in [Kind::Tls, Kind::Wss] {
            let auth = match name {
                "device" => "[\"registry\", \"users\"]",
                _ => "[\"certificate\", \"users\"]",
            };
            let tenant = if name == "of-b" {
                "tenant = \"b\"\n"
            } else {
                ""
            };
            let word = kind.word();
            text.push_str(&format!(
                "[[listener]]\nname = \"{name}-{word}\"\ntype = \"{word}\"\naddress = \"127.0.0.1:0\"\nauth = {auth}\n{tenant}\
                 [listener.tls]\ncertificate = \"{{at}}/localhost.pem\"\nkey = \"{{at}}/localhost.key\"\n\
                 client_ca = \"{{at}}/ca.pem\"\nclient_auth = \"optional\"\n{more}\n"
            ));
        }
    }
    text
}

/// Connects; the reason of CONNACK.
fn ask(
    world: &World,
    listener: &str,
    (kind, version): (Kind, Version),
    certificate: Option<&str>,
    shown: &Shown,
    client_id: &str,
) -> io::Result<ReasonCode> {
    let address = world.broker.addresses[&format!("{listener}-{}", kind.word())];
    let tls = authority::client(world.at(), certificate);
    let mut client = Client::open(kind, address, &tls, version)?;
    shown.send(&mut client, client_id)?;
    client.connack()
}

#[test]
fn a_certificate_says_which_tenant_its_client_is_of() {
    let mut world = World::start(&listeners());
    let unit = DnType::OrganizationalUnitName;
    // The same attribute by its number, so that a subject can have it twice.
    let unit_too = DnType::CustomDnType(vec![2, 5, 4, 11]);
    for (name, subject) in [
        ("of-acme", &[(unit.clone(), "acme")][..]),
        ("moved", &[(unit.clone(), "acme")]),
        ("of-nobody", &[(unit.clone(), "nobody")]),
        ("of-none", &[]),
        ("of-two", &[(unit.clone(), "acme"), (unit_too, "b")]),
        ("of-levels", &[(unit.clone(), "acme/b")]),
        ("of-all", &[(unit.clone(), "+")]),
        ("of-others", &[(unit.clone(), "*")]),
        (
            "organised",
            &[(DnType::OrganizationName, "acme"), (unit.clone(), "b")],
        ),
        ("free-valve", &[(unit, "acme")]),
    ] {
        world
            .authority
            .sign_as(world.at(), name, 0x2001, false, subject);
    }
    let file = world.at().join("free-valve.pem");
    world.devices(&["add", "free-valve", "--certificate", file.to_str().unwrap()]);
    world.devices(&[
        "add",
        "valve",
        "--certificate",
        world.at().join("valve.pem").to_str().unwrap(),
    ]);
    let nothing = Shown::default();
    let (mut connected, mut refused, mut closed) = (0, 0, 0);
    for kind in [Kind::Tls, Kind::Wss] {
        for version in [Version::V311, Version::V5] {
            let way = (kind, version);
            let no = match version.is_v5() {
                true => ReasonCode::NOT_AUTHORIZED,
                false => NOT_BEFORE,
            };
            for (listener, certificate, told) in [
                ("ou", "of-acme", ReasonCode::SUCCESS),
                ("o", "organised", ReasonCode::SUCCESS),
                // Of somebody whom no entry is for, or of another than the entry of its name or the listener says.
                ("ou", "of-nobody", no),
                ("ou", "moved", no),
                ("of-b", "of-acme", no),
                ("of-b", "organised", ReasonCode::SUCCESS),
                // A device of the registry that is of no tenant does not become one of a tenant's.
                ("device", "free-valve", no),
            ] {
                let what = format!("{listener} {certificate} {way:?}");
                let answer = ask(
                    &world,
                    listener,
                    way,
                    Some(certificate),
                    &nothing,
                    certificate,
                );
                assert_eq!(answer.expect(&what), told, "{what}\n{}", world.broker.log());
                match told {
                    ReasonCode::SUCCESS => connected += 1,
                    _ => refused += 1,
                }
            }
            // What has no tenant, or none that can be one, is no certificate for here.
            for certificate in ["of-none", "of-two", "of-levels", "of-all", "of-others"] {
                let answer = ask(&world, "ou", way, Some(certificate), &nothing, certificate);
                assert!(answer.is_err(), "{certificate} {way:?}: {answer:?}");
                closed += 1;
            }
            // Who shows no certificate is of no tenant.
            let ann = Shown::named("ann", "right");
            let answer = ask(&world, "ou", way, None, &ann, "ann");
            assert_eq!(answer.unwrap(), ReasonCode::SUCCESS);
            connected += 1;
        }
    }
    // Each is in the audit log with the reason.
    for (words, times) in [
        ("there is no tenant", 4),
        (
            "of tenant \\\"b\\\", and its certificate is \\\"acme\\\"'s",
            4,
        ),
        ("of tenant \\\"acme\\\", and the listener is \\\"b\\\"'s", 4),
        ("a device of no tenant, and its certificate is", 4),
        (
            "the subject of the certificate must have one organisational unit (OU)",
            8,
        ),
        ("cannot be the name of a tenant", 12),
    ] {
        world.broker.wait_for(words, times);
    }
    println!(
        "{connected} connected, {refused} refused, {closed} closed\n{}",
        world.broker.log()
    );
}

//! Against a second opinion: on every packet that both codecs accept, both must mean the same.
//!
//! mqttbytes 0.6 accepts much that is not allowed, so what only it accepts says nothing. What only we accept is listed
//! in [`second_opinion_refuses`]; where it reads something else than is there is listed in [`second_opinion_errs`].

use std::cell::Cell;

use bytes::BytesMut;
use dunlin_protocol::{
    Ack, Auth, ConnAck, Connect, Disconnect, Packet, Properties, PropertiesBuf, PropertyId,
    Publish, Sender, SubAck, Subscribe, UnsubAck, Unsubscribe, Version, Will, decode,
};
use mqttbytes::{v4, v5};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use crate::arbitrary;
use crate::second_opinion::{with_v4, with_v5};

/// Valid packets that mqttbytes 0.6 refuses.
fn second_opinion_refuses(packet: &Packet<'_>, version: Version) -> bool {
    match packet {
        // It has no AUTH.
        Packet::Auth(_) => true,
        // Of DISCONNECT it wants the property length, and 0x8C it does not know.
        Packet::Disconnect(it) if version.is_v5() => {
            it.properties.is_empty() || it.reason.0 == 0x8C
        }
        // Its passwords are text.
        Packet::Connect(it) => it
            .password
            .is_some_and(|password| std::str::from_utf8(password).is_err()),
        _ => false,
    }
}

/// Packets in which mqttbytes 0.6 reads something else than is there: it counts a subscription identifier as one byte
/// longer than it is, and so takes the end of the properties for payload or filters.
fn second_opinion_errs(packet: &Packet<'_>) -> bool {
    let properties = match packet {
        Packet::Publish(it) => it.properties,
        Packet::Subscribe(it) => it.properties,
        _ => return false,
    };
    properties.subscription_identifiers().next().is_some() && properties.raw_iter().count() > 1
}

/// What both read, made comparable: mqttbytes forgets the order among properties of different kinds (of user
/// properties it keeps it), and does not tell an empty user name or password from none.
fn compare(bytes: &[u8], packet: &Packet<'_>, version: Version) -> bool {
    let mut stream = BytesMut::from(bytes);
    let (sorted, will_sorted) = (sorted(properties(packet)), sorted(will_properties(packet)));
    let expected = with_properties(packet, sorted.as_properties(), will_sorted.as_properties());
    match version {
        Version::V31 => return false,
        Version::V311 => match v4::read(&mut stream, usize::MAX) {
            Ok(theirs) => with_v4(&theirs, |theirs| {
                assert_eq!(theirs, expected, "{bytes:02x?}")
            }),
            Err(_) => return false,
        },
        Version::V5 => match v5::read(&mut stream, usize::MAX) {
            Ok(theirs) => with_v5(&theirs, |theirs| {
                assert_eq!(theirs, expected, "{bytes:02x?}")
            }),
            Err(_) => return false,
        },
    }
    true
}

fn sorted(properties: Properties<'_>) -> PropertiesBuf {
    let mut buf = PropertiesBuf::new();
    for &id in PropertyId::ALL {
        for raw in properties.raw_iter().filter(|raw| raw.id == id) {
            buf.push_raw(raw);
        }
    }
    buf
}

fn properties<'a>(packet: &Packet<'a>) -> Properties<'a> {
    match packet {
        Packet::Connect(it) => it.properties,
        Packet::ConnAck(it) => it.properties,
        Packet::Publish(it) => it.properties,
        Packet::PubAck(it) | Packet::PubRec(it) | Packet::PubRel(it) | Packet::PubComp(it) => {
            it.properties
        }
        Packet::Subscribe(it) => it.properties,
        Packet::SubAck(it) => it.properties,
        Packet::Unsubscribe(it) => it.properties,
        Packet::UnsubAck(it) => it.properties,
        Packet::Disconnect(it) => it.properties,
        Packet::Auth(it) => it.properties,
        Packet::PingReq | Packet::PingResp => Properties::EMPTY,
    }
}

fn will_properties<'a>(packet: &Packet<'a>) -> Properties<'a> {
    match packet {
        Packet::Connect(Connect {
            will: Some(will), ..
        }) => will.properties,
        _ => Properties::EMPTY,
    }
}

fn with_properties<'a>(
    packet: &Packet<'a>,
    properties: Properties<'a>,
    will: Properties<'a>,
) -> Packet<'a> {
    match *packet {
        Packet::Connect(it) => Packet::Connect(Connect {
            properties,
            will: it.will.map(|it| Will {
                properties: will,
                ..it
            }),
            username: it.username.filter(|text| !text.is_empty()),
            password: it.password.filter(|data| !data.is_empty()),
            ..it
        }),
        Packet::ConnAck(it) => Packet::ConnAck(ConnAck { properties, ..it }),
        Packet::Publish(it) => Packet::Publish(Publish { properties, ..it }),
        Packet::PubAck(it) => Packet::PubAck(Ack { properties, ..it }),
        Packet::PubRec(it) => Packet::PubRec(Ack { properties, ..it }),
        Packet::PubRel(it) => Packet::PubRel(Ack { properties, ..it }),
        Packet::PubComp(it) => Packet::PubComp(Ack { properties, ..it }),
        Packet::Subscribe(it) => Packet::Subscribe(Subscribe { properties, ..it }),
        Packet::SubAck(it) => Packet::SubAck(SubAck { properties, ..it }),
        Packet::Unsubscribe(it) => Packet::Unsubscribe(Unsubscribe { properties, ..it }),
        Packet::UnsubAck(it) => Packet::UnsubAck(UnsubAck { properties, ..it }),
        Packet::Disconnect(it) => Packet::Disconnect(Disconnect { properties, ..it }),
        Packet::Auth(it) => Packet::Auth(Auth { properties, ..it }),
        other @ (Packet::PingReq | Packet::PingResp) => other,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn valid_packets_mean_the_same_to_both(owned in arbitrary::packet()) {
        let (packet, version) = (owned.packet(), owned.version);
        let mut bytes = Vec::new();
        packet.encode(version, &mut bytes).expect("a valid packet");
        let skipped = version == Version::V31 || second_opinion_refuses(&packet, version) || second_opinion_errs(&packet);
        if !skipped {
            prop_assert!(compare(&bytes, &packet, version), "only we accept {packet:?}");
        }
    }

    /// The list of what it refuses is no longer than it must be.
    #[test]
    fn what_the_second_opinion_is_said_to_refuse_it_refuses(owned in arbitrary::packet()) {
        let (packet, version) = (owned.packet(), owned.version);
        if version != Version::V31 && second_opinion_refuses(&packet, version) {
            let mut bytes = Vec::new();
            packet.encode(version, &mut bytes).expect("a valid packet");
            prop_assert!(!compare(&bytes, &packet, version), "both accept {packet:?}");
        }
    }
}

#[test]
fn altered_packets_that_both_accept_mean_the_same_to_both() {
    let alterations = vec((any::<prop::sample::Index>(), any::<u8>()), 1..3);
    let (compared, accepted) = (Cell::new(0), Cell::new(0));
    let mut runner = TestRunner::new(ProptestConfig::with_cases(20_000));
    runner
        .run(
            &(arbitrary::packet(), alterations),
            |(owned, alterations)| {
                let (version, sender) = (owned.version, owned.sender);
                let mut bytes = Vec::new();
                owned
                    .packet()
                    .encode(version, &mut bytes)
                    .expect("a valid packet");
                for (at, byte) in alterations {
                    let at = at.index(bytes.len());
                    bytes[at] = byte;
                }
                let Ok(packet) = decode(&bytes, version, sender) else {
                    return Ok(());
                };
                accepted.set(accepted.get() + 1);
                if version_read(&packet, version) == version
                    && !second_opinion_errs(&packet)
                    && compare(&bytes, &packet, version)
                {
                    compared.set(compared.get() + 1);
                }
                Ok(())
            },
        )
        .expect("both mean the same");
    // Else the test says nothing.
    println!(
        "{} of {} accepted packets compared",
        compared.get(),
        accepted.get()
    );
    assert!(
        compared.get() > 2_000,
        "{} of {} were compared",
        compared.get(),
        accepted.get()
    );
}

/// An altered CONNECT may have become one of another version.
fn version_read(packet: &Packet<'_>, version: Version) -> Version {
    match packet {
        Packet::Connect(connect) => connect.version,
        _ => version,
    }
}

/// The defect that is allowed for is still there: else the allowance can go.
#[test]
fn the_known_defect_of_the_second_opinion_is_still_there() {
    let bytes = [
        0x30, 0x0C, 0, 1, b'a', 0x08, 0x0B, 1, 0x0B, 2, 0x0B, 3, 0x0B, 4,
    ];
    let ours = decode(&bytes, Version::V5, Sender::Server);
    let Ok(Packet::Publish(ours)) = ours else {
        panic!("{ours:?}")
    };
    assert_eq!(
        ours.properties
            .subscription_identifiers()
            .collect::<Vec<_>>(),
        [1, 2, 3, 4]
    );
    assert_eq!(ours.payload, []);
    let theirs = v5::read(&mut BytesMut::from(&bytes[..]), 1024);
    let Ok(v5::Packet::Publish(theirs)) = theirs else {
        panic!("{theirs:?}")
    };
    let identifiers = theirs
        .properties
        .map(|properties| properties.subscription_identifiers);
    assert_eq!(
        (identifiers, &theirs.payload[..]),
        (Some(vec![1, 2, 3]), &[0x0B, 4][..])
    );
}

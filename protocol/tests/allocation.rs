//! Decoding allocates nothing, whatever the bytes are. (Its own binary: it counts every allocation of a thread.)

use allocation_counter::measure;
use dunlin_protocol::topic::{check_filter, check_name, matches, parse_shared};
use dunlin_protocol::{
    Connect, Packet, PacketId, PropertiesBuf, Property, Publish, QoS, Sender, Subscribe,
    SubscribeFiltersBuf, SubscribeOptions, Unsubscribe, UnsubscribeFiltersBuf, Version, Will,
    decode, encode_publish_into, peek_frame,
};

const VERSIONS: [Version; 3] = [Version::V31, Version::V311, Version::V5];

/// Packets with everything in them that has a length.
fn packets() -> Vec<Vec<u8>> {
    let mut properties = PropertiesBuf::new();
    for i in 0..40 {
        let (name, value) = (format!("name {i}"), "ü".repeat(i));
        properties
            .push(Property::UserProperty(&name, &value))
            .expect("short texts");
    }
    let properties = properties.as_properties();
    let (mut subscribe, mut unsubscribe) =
        (SubscribeFiltersBuf::new(), UnsubscribeFiltersBuf::new());
    for i in 0..40 {
        let filter = format!("a/+/{i}/#");
        subscribe
            .push(&filter, SubscribeOptions::new(QoS::AtLeastOnce))
            .expect("a short filter");
        unsubscribe.push(&filter).expect("a short filter");
    }
    let (packet_id, payload) = (PacketId::MIN, &[b'x'; 5000][..]);
    let will = Will {
        qos: QoS::ExactlyOnce,
        retain: true,
        topic: "will/topic",
        payload,
        properties,
    };
    let connect = |version| Connect {
        will: Some(will),
        username: Some("user"),
        password: Some(b"password"),
        properties,
        ..Connect::new(version, "client")
    };
    let publish = Publish {
        topic: "temperature/Küche",
        payload,
        properties,
        ..Publish::default()
    };
    let mut all = Vec::new();
    for version in VERSIONS {
        for packet in [
            Packet::Connect(connect(version)),
            Packet::Publish(publish),
            Packet::Subscribe(Subscribe {
                packet_id,
                properties,
                filters: subscribe.as_filters(),
            }),
            Packet::Unsubscribe(Unsubscribe {
                packet_id,
                properties,
                filters: unsubscribe.as_filters(),
            }),
            Packet::PingReq,
        ] {
            let mut bytes = Vec::new();
            packet.encode(version, &mut bytes).expect("a valid packet");
            all.push(bytes);
        }
    }
    all
}

/// Everything that a broker does with a packet that came in.
fn read(bytes: &[u8]) -> usize {
    let mut read = 0;
    for version in VERSIONS {
        read += usize::from(peek_frame(bytes, 1_048_576).is_ok());
        match decode(bytes, version, Sender::Client) {
            Ok(Packet::Publish(publish)) => {
                read += publish.properties.iter().count()
                    + publish.properties.user_properties().count();
                read += usize::from(publish.properties.topic_alias().is_some());
            }
            Ok(Packet::Subscribe(subscribe)) => read += subscribe.filters.iter().count(),
            Ok(Packet::Unsubscribe(unsubscribe)) => read += unsubscribe.filters.iter().count(),
            Ok(Packet::Connect(connect)) => read += connect.properties.iter().count(),
            Ok(_) => read += 1,
            Err(error) => read += usize::from(error.reason_code().is_error()),
        }
    }
    read
}

#[test]
fn decoding_allocates_nothing() {
    let packets = packets();
    let mut read_in_all = 0;
    let info = measure(|| {
        for bytes in &packets {
            read_in_all += read(bytes);
        }
    });
    assert!(read_in_all > 500, "only {read_in_all} things were read");
    assert_eq!((info.count_total, info.bytes_total), (0, 0));
}

#[test]
fn refusing_allocates_nothing() {
    let mut packets = packets();
    let mut read_in_all = 0;
    let info = measure(|| {
        for bytes in &mut packets {
            // Every byte of the first part altered, one at a time, and every prefix of it.
            for at in 0..bytes.len().min(120) {
                bytes[at] ^= 0xA5;
                read_in_all += read(bytes);
                bytes[at] ^= 0xA5;
                read_in_all += read(&bytes[..at]);
            }
        }
    });
    assert!(read_in_all > 5_000, "only {read_in_all} things were read");
    assert_eq!((info.count_total, info.bytes_total), (0, 0));
}

#[test]
fn a_length_that_is_only_declared_takes_no_memory() {
    // 256 MiB promised, as remaining length and as property length.
    let frames: [&[u8]; 3] = [
        &[0x30, 0xFF, 0xFF, 0xFF, 0x7F],
        &[0x30, 0x07, 0, 1, b'a', 0xFF, 0xFF, 0xFF, 0x7F],
        &[0x10, 0x02, 0xFF, 0xFF],
    ];
    let info = measure(|| {
        for frame in frames {
            std::hint::black_box(peek_frame(frame, u32::MAX).is_ok());
            assert!(decode(frame, Version::V5, Sender::Client).is_err());
        }
    });
    assert_eq!(info.count_total, 0);
}

#[test]
fn topics_are_checked_and_matched_without_allocating() {
    let info = measure(|| {
        assert!(
            check_name("a/b/ü").is_ok()
                && check_filter("a/+/#").is_ok()
                && matches("a/+/#", "a/b/c")
        );
        assert!(parse_shared("$share/g/a/#").is_ok() && check_filter("$share/g").is_err());
    });
    assert_eq!(info.count_total, 0);
}

#[test]
fn encoding_a_publish_allocates_at_most_once() {
    let payload = vec![b'x'; 100_000];
    let info = measure(|| {
        let mut out = Vec::new();
        let (qos, id) = (QoS::AtLeastOnce, Some(PacketId::MIN));
        encode_publish_into(
            &mut out,
            Version::V5,
            false,
            qos,
            false,
            "a/b",
            id,
            &[],
            &payload,
        )
        .expect("valid");
        std::hint::black_box(&out);
    });
    assert_eq!(info.count_total, 1);
}

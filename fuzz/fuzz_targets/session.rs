//! Whole conversations with a running session, in the process and without sockets.
//!
//! The first byte chooses how the conversation begins (CONNECT in the versions, clean and persistent, with a will and
//! subscriptions, or nothing), the second in which pieces the rest arrives. Nothing may panic or hang, and every byte
//! that the broker sends must be a packet that a server may send.

#![no_main]

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use dunlin_broker::config::{features::Features, limits::Limits};
use dunlin_broker::hub::HubConfig;
use dunlin_broker::testing::InProcess;
use dunlin_protocol::{Sender, Version, decode, peek_frame};
use dunlin_sync::MemoryStore;
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Runtime;

/// Conversations before the broker is made anew, so that a failure does not depend on too many others.
const CONVERSATIONS: u32 = 2_000;
/// A conversation takes microseconds: whatever takes this long hangs.
const HANG: Duration = Duration::from_secs(20);
const PIPE: usize = 16 * 1024;

struct Broker {
    runtime: Runtime,
    broker: InProcess,
    left: u32,
}

thread_local! {
    static BROKER: RefCell<Option<Broker>> = const { RefCell::new(None) };
}

fuzz_target!(|data: &[u8]| {
    let [beginning, pieces, rest @ ..] = data else {
        return;
    };
    BROKER.with_borrow_mut(|slot| {
        let broker = slot.get_or_insert_with(start);
        converse(broker, *beginning, *pieces, rest);
        broker.left -= 1;
        if broker.left == 0 {
            *slot = None;
        }
    });
});

/// Small bounds, so that they are met.
fn start() -> Broker {
    let limits = Limits {
        max_packet_size: 4096,
        receive_maximum: 8,
        max_inflight: 4,
        topic_alias_maximum: 4,
        outbound_topic_aliases: 2,
        max_sessions: 64,
        max_queued_messages: 32,
        max_queued_bytes: 65_536,
        session_ready_messages: 4,
        outbox_bytes: 8192,
        max_subscriptions_per_client: 16,
        max_topic_levels: 8,
        max_retained: 32,
        max_retained_bytes: 65_536,
        ..Limits::default()
    };
    let features = Features {
        sys_interval: 0,
        ..Features::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let store = Arc::new(MemoryStore::new().expect("a store"));
    let broker = {
        let _inside = runtime.enter();
        let config = HubConfig {
            limits,
            features,
            ..HubConfig::default()
        };
        InProcess::start(config, store).expect("an empty store is readable")
    };
    Broker {
        runtime,
        broker,
        left: CONVERSATIONS,
    }
}

fn converse(broker: &Broker, beginning: u8, pieces: u8, rest: &[u8]) {
    let mut input = beginnings(beginning);
    input.extend_from_slice(rest);
    let piece = match pieces {
        0 => input.len().max(1),
        piece => usize::from(piece),
    };
    let v5 = input.get(8) == Some(&5);
    let output = broker.runtime.block_on(async {
        let (client, served) = broker.broker.connect(PIPE).expect("a place");
        let (mut from, mut to) = tokio::io::split(client);
        let write = async {
            for piece in input.chunks(piece) {
                if to.write_all(piece).await.is_err() {
                    return;
                }
                tokio::task::yield_now().await;
            }
            // An error means that the broker has closed already, as it may.
            let _closed = to.shutdown().await.is_err();
        };
        let mut output = Vec::new();
        let read = from.read_to_end(&mut output);
        let conversation = async {
            let (_, read) = tokio::join!(write, read);
            read.expect("a pipe within the process does not fail");
            served.await.expect("the task ends without a panic");
        };
        tokio::time::timeout(HANG, conversation)
            .await
            .expect("the conversation ends");
        output
    });
    check(&output, if v5 { Version::V5 } else { Version::V311 });
}

/// What the broker sent is a sequence of whole packets that a server may send.
fn check(mut output: &[u8], version: Version) {
    while !output.is_empty() {
        if output.starts_with(b"HTTP/1.1 400") {
            return;
        }
        let header = peek_frame(output, u32::MAX)
            .expect("a fixed header")
            .expect("a whole packet");
        let (frame, rest) = output
            .split_at_checked(header.total_len)
            .expect("a whole packet");
        // A CONNECT that claims another version is answered in that version.
        let refused = frame.first() == Some(&0x20) && frame.get(3).is_some_and(|code| *code != 0);
        if !refused {
            decode(frame, version, Sender::Server).expect("a packet that a server may send");
        }
        output = rest;
    }
}

fn beginnings(choice: u8) -> Vec<u8> {
    let id = b'a' + (choice >> 4) % 4;
    let v311 = |flags: u8| {
        vec![
            0x10, 13, 0, 4, b'M', b'Q', b'T', b'T', 4, flags, 0, 0, 0, 1, id,
        ]
    };
    let v5 = |flags: u8, properties: &[u8]| {
        let mut packet = vec![
            0x10,
            14 + properties.len() as u8,
            0,
            4,
            b'M',
            b'Q',
            b'T',
            b'T',
            5,
            flags,
            0,
            0,
            properties.len() as u8,
        ];
        packet.extend_from_slice(properties);
        packet.extend_from_slice(&[0, 1, id]);
        packet
    };
    let expiry = [0x11, 0, 0, 0, 100];
    let subscribe_v311 = [0x82, 6, 0, 1, 0, 1, b'#', 2];
    let subscribe_v5 = [0x82, 7, 0, 1, 0, 0, 1, b'#', 2];
    match choice % 8 {
        0 => Vec::new(),
        1 => v311(2),
        2 => v311(0),
        3 => v5(2, &[]),
        4 => v5(0, &expiry),
        5 => [v311(0), subscribe_v311.to_vec()].concat(),
        6 => [v5(0, &expiry), subscribe_v5.to_vec()].concat(),
        // Receive Maximum 2, Maximum Packet Size 64, Topic Alias Maximum 2.
        _ => [
            v5(2, &[0x21, 0, 2, 0x27, 0, 0, 0, 64, 0x22, 0, 2]),
            subscribe_v5.to_vec(),
        ]
        .concat(),
    }
}

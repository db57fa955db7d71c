//! A frame in words, for `broker cluster tail`.

use std::fmt::Write;

use super::entry::{Entry, MessageView};
use super::{Body, Change, decode};
use crate::cluster::SessionEntry;
use crate::records::Table;
use crate::{Message, SessionId};

/// Payload bytes that are shown.
const SHOWN: usize = 48;

/// One line for the frame and one for each of its entries; says what is wrong with bytes that are not a
/// frame.
#[must_use]
pub fn describe(bytes: &[u8]) -> String {
    let frame = match decode(bytes) {
        Ok(frame) => frame,
        Err(error) => return format!("{} bytes: {error}", bytes.len()),
    };
    let mut out = format!("from {}", frame.origin.0);
    match frame.body {
        Body::Table {
            bucket,
            version,
            change,
        } => say(
            &mut out,
            format_args!(
                " table b{:02} version {version}: {}",
                bucket.0,
                describe_change(change)
            ),
        ),
        Body::Routes { version, changes } => {
            say(&mut out, format_args!(" routes version {version}"));
            for change in changes {
                match change {
                    Ok((filter, route)) => say(
                        &mut out,
                        format_args!(
                            "\n  {filter:?} flags {:#06b} members {}",
                            route.flags, route.members
                        ),
                    ),
                    Err(error) => say(&mut out, format_args!("\n  {error}")),
                }
            }
        }
        Body::Tap { entries } => {
            out.push_str(" for a tap");
            for entry in entries {
                match entry {
                    Ok(entry) => say(&mut out, format_args!("\n  {}", describe_entry(entry))),
                    Err(error) => say(&mut out, format_args!("\n  {error}")),
                }
            }
        }
        Body::Lane {
            to,
            sequence,
            entries,
        } => {
            match to.0 {
                0 => out.push_str(" to all"),
                to => say(&mut out, format_args!(" to {to}")),
            }
            say(&mut out, format_args!(" number {sequence}"));
            for entry in entries {
                match entry {
                    Ok(entry) => say(&mut out, format_args!("\n  {}", describe_entry(entry))),
                    Err(error) => say(&mut out, format_args!("\n  {error}")),
                }
            }
        }
    }
    out
}

fn say(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    let _infallible = out.write_fmt(text).is_ok();
}

fn describe_change(change: Change<'_>) -> String {
    match change {
        Change::RetainedSet(body) => match Message::decode(body) {
            Ok(message) => format!("retained {}", describe_message(&MessageView::of(&message))),
            Err(error) => format!("retained: {error}"),
        },
        Change::RetainedRemoved(topic) => format!("retained removed {topic:?}"),
        Change::RecordSet(session, body) => match SessionEntry::decode(session, body) {
            Ok((entry, _)) => {
                let filters: Vec<_> = entry.subscriptions.iter().map(|sub| &*sub.filter).collect();
                format!(
                    "session {} of {:?} subscribes to {filters:?}",
                    session.0, entry.client_id
                )
            }
            Err(error) => format!("session {}: {error}", session.0),
        },
        Change::SessionDeleted(SessionId(id)) => format!("session {id} has ended"),
        Change::Owner(session, owner) => match owner.0 {
            0 => format!("session {} is not connected", session.0),
            owner => format!("session {} is connected to {owner}", session.0),
        },
        Change::Records(body) => {
            let records = super::records(body).map(|record| match record {
                Ok(record) => {
                    let table = Table::of_code(record.code).map_or("unknown", Table::name);
                    format!("{table} {:?} at {}", record.key, record.revision)
                }
                Err(error) => error.to_string(),
            });
            format!("records {}", records.collect::<Vec<_>>().join(", "))
        }
        Change::Unknown(tag) => format!("a change of kind {tag}, which this program does not know"),
    }
}

fn describe_entry(entry: Entry<'_>) -> String {
    match entry {
        Entry::Message {
            share: None,
            message,
        } => format!("message {}", describe_message(&message)),
        Entry::Message {
            share: Some(share),
            message,
        } => format!("to one of {share:?}: {}", describe_message(&message)),
        Entry::Queued {
            session,
            seq,
            message,
            ..
        } => format!(
            "queued for session {} at {seq}: {}",
            session.0,
            describe_message(&message)
        ),
        Entry::Hello { round, .. } => format!("hello {round}"),
        Entry::Welcome { round, .. } => format!("welcome {round}"),
        Entry::LetGo { client_id, epoch } => format!("let go of {client_id:?} claim {}", epoch.0),
        Entry::Applied(pairs) => format!("applied {:?}", pairs.iter().collect::<Vec<_>>()),
        Entry::AppliedRoutes(version) => format!("applied your routes {version}"),
        Entry::Ask(pairs) => format!("waits for {:?}", pairs.iter().collect::<Vec<_>>()),
        Entry::AskRoutes(version) => format!("waits for its routes {version}"),
        Entry::Heartbeat(pairs) => format!("lanes {:?}", pairs.iter().collect::<Vec<_>>()),
        Entry::Grown { session, tail } => {
            format!("queue of session {} reaches to {tail}", session.0)
        }
        Entry::Tapped { number, message } => {
            format!("number {number}: {}", describe_message(&message))
        }
        Entry::Leaving => "leaves".to_owned(),
        Entry::Unknown(tag) => {
            format!("an entry of kind {tag}, which this program does not know")
        }
    }
}

fn describe_message(message: &MessageView<'_>) -> String {
    let shown = message.payload.get(..SHOWN).unwrap_or(message.payload);
    format!(
        "{:?} qos {}{} from {:?}, {} bytes: {:?}{}",
        message.topic,
        message.qos as u8,
        if message.retain { " retained" } else { "" },
        crate::publisher::client_of(message.publisher.unwrap_or("")),
        message.payload.len(),
        String::from_utf8_lossy(shown),
        if message.payload.len() > SHOWN {
            "…"
        } else {
            ""
        },
    )
}

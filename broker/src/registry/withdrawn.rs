//! A credential that was taken away is announced by itself, so that its connections end in the step in which that is heard.
//!
//! The announcement of the device's own record says only that something is another: it is read again, which takes some
//! milliseconds. A record of the table `revoked` names the device and the credential. It is there to be announced and is not asked
//! for: who comes with that credential finds that the device has it no longer. So it ends by itself, soon.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dunlin_sync::records::{RecordKey, RecordPut, Table};

use super::credential::{Credential as Own, hex};
use super::device::{Device, DeviceKey};
use super::error::RegistryError;
use super::service::{Registry, hint};
use crate::auth::{Credential, Principal};

/// For how long it is kept.
const KEPT: Duration = Duration::from_secs(60);

/// No id of a device has a `#`.
const BEHIND_DEVICE: char = '#';

fn name(key: &DeviceKey, credential: &Own) -> String {
    match credential.shown.index() {
        Some(index) => format!("{key}{BEHIND_DEVICE}{index}"),
        None => format!("{key}{BEHIND_DEVICE}k:{}", credential.id),
    }
}

/// Those that `old` has and `new` has no longer, or not at this time, in Unix seconds.
fn gone<'d>(old: &'d Device, new: &'d Device, now: u64) -> impl Iterator<Item = &'d Own> {
    let stays = move |was: &Own| {
        let mut same = new.credentials.iter();
        same.any(|it| it.id == was.id && it.shown == was.shown && it.is_good(now))
    };
    old.credentials.iter().filter(move |was| !stays(was))
}

impl Registry {
    /// Ends the connections that came with what was taken away. They have been told to end on every live replica when this resolves.
    pub(super) async fn withdraw(
        &self,
        key: &DeviceKey,
        old: &Device,
        new: &Device,
    ) -> Result<(), RegistryError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.unwrap_or_default();
        let until = u64::try_from((now + KEPT).as_millis()).ok();
        let puts = gone(old, new, now.as_secs()).map(|credential| {
            RecordPut::set(RecordKey::new(Table::Revoked, name(key, credential)), "")
                .until(until)
                .hinting(hint::END)
        });
        let puts: Vec<_> = puts.collect();
        if !puts.is_empty() {
            self.records().put_everywhere(puts).await?;
        }
        Ok(())
    }
}

/// A credential that was taken away, as it is announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Withdrawn<'a> {
    /// The key of the device's record.
    pub(crate) device: &'a str,
    what: &'a str,
}

impl<'a> Withdrawn<'a> {
    /// From the key of the record; `None`: it says something else.
    pub(crate) fn parse(key: &'a str) -> Option<Self> {
        let (device, what) = key.split_once(BEHIND_DEVICE)?;
        Some(Self { device, what })
    }

    /// Whether a client of the device was let in with it.
    pub(crate) fn let_in(&self, who: &Principal) -> bool {
        let Some((kind, what)) = self.what.split_once(':') else {
            return false;
        };
        match (kind, &who.credential) {
            ("k", Some(Credential::Key { id, .. })) => **id == *what,
            ("f", Some(Credential::Certificate { sha256, .. })) => hex(sha256) == what,
            ("n", Some(Credential::Certificate { serial, .. })) => {
                what.rsplit_once(':').is_some_and(|(_, of)| **serial == *of)
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::auth::Method;
    use crate::registry::Shown;

    #[test]
    fn who_came_with_it_is_told_from_those_who_did_not() {
        let key = DeviceKey::new(Some("acme"), "pump").unwrap();
        let own = |id: &str, shown| Own {
            id: id.to_owned(),
            shown,
            not_before: None,
            expires_at: None,
        };
        let with = |credential| {
            let mut who = Principal::new(Method::Registry, Some(Arc::from("pump")));
            who.credential = Some(credential);
            who
        };
        let by_key = |id: &str| {
            with(Credential::Key {
                id: id.into(),
                print: 1,
            })
        };
        let by_certificate = |byte, serial: &str| {
            with(Credential::Certificate {
                sha256: [byte; 32],
                serial: serial.into(),
            })
        };
        let everybody = [
            by_key("one"),
            by_key("two"),
            by_certificate(1, "0a"),
            by_certificate(2, "0b"),
        ];
        let digits = |byte: &str| byte.repeat(32);
        let fingerprint = Shown::fingerprint_from_hex(&digits("01")).unwrap();
        let issued = Shown::issued_from_hex(&digits("ff"), "0b").unwrap();
        for (credential, whose) in [
            (own("one", Shown::Key("MFkw".to_owned())), 0),
            (own("three", fingerprint), 2),
            (own("four", issued), 3),
        ] {
            let name = name(&key, &credential);
            let withdrawn = Withdrawn::parse(&name).unwrap();
            assert_eq!(withdrawn.device, "acme/pump");
            let let_in: Vec<_> = everybody.iter().map(|who| withdrawn.let_in(who)).collect();
            let expected: Vec<_> = (0..4).map(|index| index == whose).collect();
            assert_eq!(let_in, expected, "{name}");
        }
        assert_eq!(Withdrawn::parse("acme/pump"), None);
    }

    #[test]
    fn what_is_over_is_gone_and_what_is_kept_as_it_was_is_not() {
        let own = |id: &str, expires_at| Own {
            id: id.to_owned(),
            shown: Shown::Key(id.to_owned()),
            not_before: None,
            expires_at,
        };
        let device = |credentials: Vec<Own>| {
            let mut device = Device::new(1);
            device.credentials = credentials;
            device
        };
        let old = device(vec![own("a", None), own("b", None), own("c", None)]);
        let new = device(vec![own("a", Some(20)), own("b", Some(9)), own("d", None)]);
        let gone: Vec<_> = gone(&old, &new, 10).map(|it| it.id.as_str()).collect();
        assert_eq!(gone, ["b", "c"]);
    }
}

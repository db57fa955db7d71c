//! Which master the Sentinels name.

use std::time::Duration;

use tokio::sync::Mutex;

use super::connect::{Access, ConnectError, Wire};
use super::decode::array;
use super::resp::Value;
use super::url::Address;

/// How long one Sentinel is waited for.
const PATIENCE: Duration = Duration::from_millis(1500);

/// The Sentinels, with connections that are kept.
pub(super) struct Sentinels(Vec<(Address, Mutex<Option<Wire>>)>);

impl Sentinels {
    pub(super) fn new(addresses: Vec<Address>) -> Self {
        let with_place = |address| (address, Mutex::new(None));
        Self(addresses.into_iter().map(with_place).collect())
    }

    /// Asks all of them, and believes the one that has seen the newest failover.
    pub(super) async fn master(
        &self,
        access: &Access,
        name: &str,
    ) -> Result<Address, ConnectError> {
        let asked = self.0.iter().map(|(address, wire)| async move {
            let asked = ask(access, address, wire, name);
            match tokio::time::timeout(PATIENCE, asked).await {
                Ok(answer) => answer,
                Err(_) => Err(ConnectError::Timeout(address.to_string())),
            }
        });
        let mut best: Option<(u64, Address)> = None;
        let mut errors = Vec::new();
        for answer in futures_util::future::join_all(asked).await {
            match answer {
                Ok((epoch, master)) if best.as_ref().is_none_or(|(known, _)| epoch > *known) => {
                    best = Some((epoch, master));
                }
                Ok(_) => {}
                Err(error) => errors.push(error.to_string()),
            }
        }
        best.map(|(_, master)| master)
            .ok_or_else(|| ConnectError::NoMaster(errors.join("; ")))
    }
}

/// Address of the master, and the epoch of the configuration that names it.
async fn ask(
    access: &Access,
    address: &Address,
    place: &Mutex<Option<Wire>>,
    name: &str,
) -> Result<(u64, Address), ConnectError> {
    let mut place = place.lock().await;
    // Taken out: a question that is given up half-way must not leave its answer to the next one.
    let mut wire = match place.take() {
        Some(wire) => wire,
        None => access.connect_sentinel(address).await?,
    };
    let answer = wire.ask(&[b"SENTINEL", b"MASTER", name.as_bytes()]).await?;
    let master = read(answer)
        .ok_or_else(|| ConnectError::NoMaster(format!("{address} does not know {name:?}")))?;
    *place = Some(wire);
    Ok(master)
}

fn read(answer: Value) -> Option<(u64, Address)> {
    let mut values = array(answer)?.into_iter();
    let (mut host, mut port, mut epoch) = (None, None, 0);
    while let (Some(Value::Bulk(name)), Some(Value::Bulk(value))) = (values.next(), values.next()) {
        let value = std::str::from_utf8(&value).ok()?;
        match &name[..] {
            b"ip" => host = Some(value.to_owned()),
            b"port" => port = value.parse().ok(),
            b"config-epoch" => epoch = value.parse().ok()?,
            _ => {}
        }
    }
    Some((epoch, Address::Tcp(host?, port?)))
}

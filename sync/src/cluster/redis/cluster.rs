//! A Redis Cluster: which master has which slots, and what happens when that changes.
//!
//! A change is rare, so it is done in the simplest way that keeps the order of every slot: no job goes
//! out any more, what is on its way is waited for (a lost connection gives back at once), everything is
//! dealt out anew. Acknowledged writes that are kept for a failover go with their slots, and are written
//! again on the new master: it may be a promoted replica that lacks them.
//!
//! A slot that is being moved key by key is not written to: the first key of every script is one that
//! never exists, so that the old master answers `ASK` before a script begins, and it goes out again
//! until the slot has moved as a whole.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tracing::{info, warn};

use super::connect::ConnectError;
use super::decode::array;
use super::names::SLOTS;
use super::node::{Handback, Node};
use super::pool::{Core, deal_again};
use super::resp::{RespError, Value};
use super::url::Address;

/// How often the masters are asked while all is well, and while one is missing.
const CALM: Duration = Duration::from_secs(10);
const UNEASY: Duration = Duration::from_millis(300);
/// Pause after a change, so that a cluster in motion is not asked in a tight loop.
const PAUSE: Duration = Duration::from_millis(20);

/// Masters, and for each slot the index of its master; `u16::MAX`: nobody's.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Map {
    masters: Vec<Address>,
    slots: Vec<u16>,
}

impl Core {
    /// Until the backplane is closed.
    pub(super) async fn open_cluster(self: &Arc<Self>) {
        let mut known = self.url.addresses.clone();
        let mut map = self.first_map(&mut known).await;
        let nodes = map
            .masters
            .iter()
            .map(|address| self.start_node(Some(address.clone())));
        self.begin(true, nodes.collect(), map.slots.clone());
        info!(masters = map.masters.len(), "redis is a cluster");
        loop {
            let wait = match self.all_connected() {
                true => CALM,
                false => UNEASY,
            };
            // Whichever comes first.
            drop(tokio::time::timeout(wait, self.topology.notified()).await);
            match self.fetch_map(&mut known).await {
                Ok(newer) if newer != map => {
                    warn!(
                        masters = newer.masters.len(),
                        "slots of the redis cluster have moved"
                    );
                    self.deal_out(&newer).await;
                    map = newer;
                }
                Ok(_) => {}
                Err(error) => self.failed(error.to_string()),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn first_map(&self, known: &mut Vec<Address>) -> Map {
        let mut pauses = self.pauses();
        loop {
            match self.fetch_map(known).await {
                Ok(map) => return map,
                Err(error) => {
                    warn!("no connection to the redis cluster: {error}");
                    self.failed(error.to_string());
                }
            }
            let pause = pauses.next().unwrap_or(self.options.backoff_max);
            tokio::time::sleep(pause).await;
        }
    }

    fn all_connected(&self) -> bool {
        let routes = self.routes.lock();
        routes
            .nodes
            .iter()
            .all(|node| node.connected.load(Ordering::Acquire))
    }

    /// Asks one known node after the other, another one first each time: one may be behind.
    async fn fetch_map(&self, known: &mut Vec<Address>) -> Result<Map, ConnectError> {
        let mut last = ConnectError::NoMaster("no node is known".to_owned());
        for _ in 0..known.len() {
            known.rotate_left(1);
            let Some(address) = known.first().cloned() else {
                break;
            };
            match self.map_of(&address).await {
                Ok((map, nodes)) => {
                    for node in nodes.into_iter().chain(self.url.addresses.iter().cloned()) {
                        if !known.contains(&node) && known.len() < 1024 {
                            known.push(node);
                        }
                    }
                    return Ok(map);
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn map_of(&self, address: &Address) -> Result<(Map, Vec<Address>), ConnectError> {
        let mut wire = self.access.connect(address).await?;
        let name = wire.address.clone();
        let answer = self
            .in_time(&name, wire.ask(&[b"CLUSTER", b"SLOTS"]))
            .await?;
        let found = read_slots(answer, address)
            .ok_or_else(|| wire.protocol(RespError::Number("CLUSTER SLOTS".to_owned())))?;
        match found.0.masters.is_empty() {
            true => Err(ConnectError::NoMaster(format!("{name} knows of no slots"))),
            false => Ok(found),
        }
    }

    async fn deal_out(self: &Arc<Self>, map: &Map) {
        let nodes = {
            let mut routes = self.routes.lock();
            routes.paused = true;
            routes.nodes.clone()
        };
        let draining: Vec<_> = nodes.iter().map(|node| node.drain()).collect();
        let mut back = Handback::default();
        // A connection that does not answer is given up by its watchdog before that.
        let limit = self.options.answer_timeout * 2;
        for told in draining {
            if let Ok(Ok(handback)) = tokio::time::timeout(limit, told).await {
                back.jobs.extend(handback.jobs);
                back.kept.extend(handback.kept);
            }
        }
        let by_address: HashMap<&Address, &Arc<Node>> = nodes
            .iter()
            .filter_map(|node| Some((node.address.as_ref()?, node)))
            .collect();
        let newer: Vec<Arc<Node>> = map
            .masters
            .iter()
            .map(|address| match by_address.get(address) {
                Some(node) => Arc::clone(node),
                None => self.start_node(Some(address.clone())),
            })
            .collect();
        for node in &nodes {
            if !newer.iter().any(|other| Arc::ptr_eq(other, node)) {
                node.retire();
            }
        }
        let old = nodes;
        let mut routes = self.routes.lock();
        deal_again(&mut routes, back, (&old, newer), map.slots.clone());
    }
}

/// The map, and all nodes that are named, replicas included.
fn read_slots(answer: Value, asked: &Address) -> Option<(Map, Vec<Address>)> {
    let mut map = Map {
        masters: Vec::new(),
        slots: vec![u16::MAX; SLOTS],
    };
    let mut known = Vec::new();
    for range in array(answer)? {
        let mut parts = array(range)?.into_iter();
        let (Value::Int(from), Value::Int(to)) = (parts.next()?, parts.next()?) else {
            return None;
        };
        let (from, to) = (usize::try_from(from).ok()?, usize::try_from(to).ok()?);
        let master = address_of(parts.next()?, asked)?;
        let index = match map.masters.iter().position(|other| *other == master) {
            Some(index) => index,
            None => {
                map.masters.push(master);
                map.masters.len() - 1
            }
        };
        map.slots
            .get_mut(from..=to)?
            .fill(u16::try_from(index).ok()?);
        known.extend(parts.filter_map(|replica| address_of(replica, asked)));
    }
    known.extend(map.masters.iter().cloned());
    Some((map, known))
}

/// `[host, port, …]`; without a host it is the one that was asked.
fn address_of(value: Value, asked: &Address) -> Option<Address> {
    let mut parts = array(value)?.into_iter();
    let host = match parts.next()? {
        Value::Bulk(host) if !host.is_empty() && &host[..] != b"?" => {
            std::str::from_utf8(&host).ok()?.to_owned()
        }
        _ => match asked {
            Address::Tcp(host, _) => host.clone(),
            Address::Unix(_) => return None,
        },
    };
    let Value::Int(port) = parts.next()? else {
        return None;
    };
    Some(Address::Tcp(host, u16::try_from(port).ok()?))
}

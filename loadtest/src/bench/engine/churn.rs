//! Clients that come, subscribe and go, so many at a time: over and over, or each once.

use std::net::Shutdown;

use dunlin_protocol::{Disconnect, Packet, ReasonCode};
use rustix::event::epoll;

use super::{Client, Engine, Failure, Outcome, Phase, Role};
use crate::bench::plan::{Shape, Workload};

/// Who is on the way, by number of the client.
#[derive(Debug, Default)]
pub(super) struct Churn {
    /// Taken from the end.
    free: Vec<usize>,
    /// When the visit of each client was due.
    due_ns: Vec<u64>,
    /// Number of the visit of each client.
    serials: Vec<usize>,
    begun: usize,
    /// Visits that are made at most.
    quota: usize,
}

impl Churn {
    pub(super) fn new(workload: &Workload) -> Self {
        let (_, ends) = workload.ends();
        let (clients, quota) = match workload.shape {
            Shape::Churn => (ends, usize::MAX),
            Shape::Sessions => (ends, workload.clients),
            _ => (0, 0),
        };
        Self {
            free: (0..clients).rev().collect(),
            due_ns: vec![0; clients],
            serials: vec![0; clients],
            begun: 0,
            quota,
        }
    }

    /// Number of the visit that a client makes.
    pub(super) fn serial(&self, client: usize) -> usize {
        self.serials.get(client).copied().unwrap_or(0)
    }

    /// Whether no visit is to begin any more.
    pub(super) fn has_begun_all(&self) -> bool {
        self.begun >= self.quota
    }

    pub(super) fn is_idle(&self) -> bool {
        self.free.len() == self.due_ns.len()
    }
}

impl Engine {
    /// Begins a visit; `false` when all clients are on the way, or all visits are made.
    pub(super) fn visit(&mut self, due_ns: u64) -> Outcome<bool> {
        if self.churn.has_begun_all() {
            return Ok(false);
        }
        let Some(number) = self.churn.free.pop() else {
            return Ok(false);
        };
        if let Some(serial) = self.churn.serials.get_mut(number) {
            *serial = self.churn.begun;
        }
        self.churn.begun += 1;
        if let Some(due) = self.churn.due_ns.get_mut(number) {
            *due = due_ns;
        }
        let client = self.begin(number, Role::Visitor)?;
        match self.clients.get_mut(number) {
            Some(place) => *place = client,
            None => self.clients.push(client),
        }
        self.totals.sent += 1;
        Ok(true)
    }

    /// It has subscribed: it says goodbye and closes at once, as clients do.
    pub(super) fn leave(&mut self, number: usize) -> Outcome<()> {
        let goodbye = Packet::Disconnect(Disconnect::new(ReasonCode::NORMAL_DISCONNECTION));
        let Some(Client {
            connection, phase, ..
        }) = self.clients.get_mut(number)
        else {
            return Ok(());
        };
        // Not through the list of those that have something to write: this one is not there any more.
        goodbye
            .encode(self.version, &mut connection.out)
            .map_err(|problem| Failure::Protocol(problem.to_string()))?;
        connection
            .flush()
            .map_err(|error| Failure::Io("write", error))?;
        epoll::delete(&self.epoll, &*connection)
            .map_err(|error| Failure::Io("epoll", error.into()))?;
        connection
            .shut_down(Shutdown::Both)
            .map_err(|error| Failure::Io("close", error))?;
        *phase = Phase::Gone;
        let due_ns = self.churn.due_ns.get(number).copied().unwrap_or(0);
        self.churn.free.push(number);
        self.totals.delivered += 1;
        self.last_delivery_ns = self.now_ns;
        if let Some(latencies) = &mut self.latencies {
            latencies.record_ns(self.now_ns.saturating_sub(due_ns));
        }
        Ok(())
    }
}

//! The connections that are open: who they are, and what is done to many of them at once.
//!
//! A connection is in the table from the moment it holds its session to the moment it lets go. Whoever takes a right away
//! changes first what new connections are judged by, then asks here for those that are there; a connection that is
//! between the two looks again when it is in the table ([`Hub::changes`]). So nobody slips through, and no lock is held
//! while principals are looked at.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;
use dunlin_protocol::{QoS, ReasonCode, Version};
use dunlin_sync::Op;
use dunlin_sync::cluster::Epoch;

use super::Hub;
use super::gate::RulesGate;
use super::session::{Session, Subscription};
use super::wake::{CloseRequest, Wake};
use crate::audit::{Event, Kind};
use crate::auth::{Action, Decision, Principal, Who};
use crate::core::mount;
use crate::net::{ClientCertificate, ListenerInfo};
use crate::tenant::{Place, Tenant};

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) principal: Arc<Principal>,
    pub(crate) address: SocketAddr,
    pub(crate) listener: Arc<ListenerInfo>,
    /// What it has shown in its TLS handshake.
    pub(crate) certificate: Option<Arc<ClientCertificate>>,
    /// Its place in its tenant.
    pub(crate) tenant: Option<Arc<Place>>,
}

/// The same, as it is kept while the connection is open.
pub(crate) struct About {
    session: Weak<Session>,
    principal: ArcSwap<Principal>,
    /// Of its principal and tenant no more is to be known than the rules for everybody.
    plain: AtomicBool,
    // A `SocketAddr` has 12 bytes more in every connection, for what only link-local addresses need.
    ip: IpAddr,
    port: u16,
    listener: Arc<ListenerInfo>,
    certificate: Option<Arc<ClientCertificate>>,
    tenant: Option<Arc<Place>>,
    version: Version,
}

impl About {
    pub(super) fn new(session: &Arc<Session>, peer: Peer, version: Version) -> Self {
        Self {
            session: Arc::downgrade(session),
            plain: AtomicBool::new(peer.principal.policy.is_none() && peer.tenant.is_none()),
            principal: ArcSwap::new(peer.principal),
            ip: peer.address.ip(),
            port: peer.address.port(),
            listener: peer.listener,
            certificate: peer.certificate,
            tenant: peer.tenant,
            version,
        }
    }

    /// The client's tenant.
    pub(crate) fn tenant(&self) -> Option<&Arc<Tenant>> {
        self.tenant.as_deref().map(|place| &**place)
    }

    /// Whether nothing but the rules for everybody is to be asked; see [`Self::principal`] otherwise.
    pub(crate) fn is_plain(&self) -> bool {
        self.plain.load(Ordering::Relaxed)
    }

    /// Who the client is, and what it may do, from now on until it is asked again.
    pub(crate) fn principal(&self) -> arc_swap::Guard<Arc<Principal>> {
        self.principal.load()
    }

    /// What the client has shown in its TLS handshake.
    pub(crate) fn certificate(&self) -> Option<&ClientCertificate> {
        self.certificate.as_deref()
    }

    pub(crate) fn listener(&self) -> &ListenerInfo {
        &self.listener
    }

    /// Where the client is. Of a link-local address, the scope is not kept.
    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::new(self.ip, self.port)
    }
}

impl std::fmt::Debug for About {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("About")
            .field("address", &self.address())
            .finish_non_exhaustive()
    }
}

/// A connection that is open.
#[derive(Clone, Debug)]
pub(crate) struct LiveClient {
    pub(crate) client_id: Arc<str>,
    pub(crate) principal: Arc<Principal>,
    pub(crate) peer: SocketAddr,
    pub(crate) listener: Arc<ListenerInfo>,
    pub(crate) version: Version,
    pub(crate) wake: Arc<Wake>,
}

impl LiveClient {
    fn of(wake: Arc<Wake>) -> Option<Self> {
        let about = &wake.about;
        Some(Self {
            client_id: about.session.upgrade()?.client_id.clone(),
            principal: about.principal.load_full(),
            peer: about.address(),
            listener: about.listener.clone(),
            version: about.version,
            wake,
        })
    }
}

/// Why connections are ended from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EndReason {
    /// The credential or the device is no longer good: 0x87.
    Revoked,
    /// The client, its name or its address is banned: 0x98, as DISCONNECT has no code of its own for it.
    Banned,
    /// A human has asked for it: 0x98.
    Administrative,
}

impl From<EndReason> for CloseRequest {
    fn from(reason: EndReason) -> Self {
        match reason {
            EndReason::Revoked => Self::NotAuthorized,
            EndReason::Banned | EndReason::Administrative => Self::Administrative,
        }
    }
}

/// Counts what may concern connections that are not in the table yet.
#[derive(Debug, Default)]
pub(crate) struct Changes(AtomicU64);

impl Hub {
    /// A number that rises with every call of [`Self::end_where`], [`Self::renew_where`] and [`Self::recheck_all`]. Whoever has
    /// looked at rights before it was in the table looks again when the number is another one.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.0.load(Ordering::SeqCst)
    }

    /// Something has changed that may concern connections that are not in the table yet.
    pub(super) fn note_change(&self) {
        self.changes.0.fetch_add(1, Ordering::SeqCst);
    }

    pub(super) fn clients_of_numbers(&self, numbers: &[u64]) -> Vec<LiveClient> {
        let connections = self.connections.lock();
        let found: Vec<_> = numbers
            .iter()
            .filter_map(|number| connections.get(number).cloned())
            .collect();
        drop(connections);
        found.into_iter().filter_map(LiveClient::of).collect()
    }

    /// Replaces the principal of a client, and looks again at what it has.
    pub(super) fn renew_client(self: &Arc<Self>, client: &LiveClient, principal: Arc<Principal>) {
        self.renew_principal(&client.wake, principal);
        self.recheck(&client.wake);
    }

    fn open_connections(&self) -> Vec<Arc<Wake>> {
        self.note_change();
        self.connections.lock().values().cloned().collect()
    }

    /// The connections for which `wanted` says so.
    pub(crate) fn live_where(
        &self,
        mut wanted: impl FnMut(&LiveClient) -> bool,
    ) -> Vec<LiveClient> {
        let open: Vec<_> = self.connections.lock().values().cloned().collect();
        let live = open.into_iter().filter_map(LiveClient::of);
        live.filter(|client| wanted(client)).collect()
    }

    /// Ends the connections for which `wanted` says so; gives back how many. Their sessions stay, as after any lost connection.
    pub(crate) fn end_where(
        &self,
        reason: EndReason,
        mut wanted: impl FnMut(&LiveClient) -> bool,
    ) -> usize {
        let mut ended = 0;
        for client in self
            .open_connections()
            .into_iter()
            .filter_map(LiveClient::of)
        {
            if client.wake.close_request().is_none() && wanted(&client) {
                client.wake.close(reason.into());
                ended += 1;
            }
        }
        ended
    }

    /// Replaces the principals for which `renew` gives a new one, and looks again at what those clients have; gives back how many.
    pub(crate) fn renew_where(
        self: &Arc<Self>,
        mut renew: impl FnMut(&LiveClient) -> Option<Arc<Principal>>,
    ) -> usize {
        let mut renewed = 0;
        for client in self
            .open_connections()
            .into_iter()
            .filter_map(LiveClient::of)
        {
            if let Some(principal) = renew(&client) {
                self.renew_principal(&client.wake, principal);
                self.recheck(&client.wake);
                renewed += 1;
            }
        }
        renewed
    }

    /// Puts a connection into the table.
    pub(super) fn enter(&self, session: &Session, wake: &Arc<Wake>) {
        let mut connections = self.connections.lock();
        connections.insert(session.number, wake.clone());
        drop(connections);
        self.devices
            .opened(&wake.about, session.number, self.replica());
        self.expect_end(wake, None);
    }

    /// Takes a connection out of the table.
    pub(super) fn leave(&self, session: &Session) {
        let Some(wake) = self.connections.lock().remove(&session.number) else {
            return;
        };
        self.devices
            .closed(&wake.about, session.number, self.replica());
        if let Some(end) = wake.about.principal().expires_at {
            self.expiring.lock().remove(&(end, session.number));
        }
    }

    /// From now on the client is this one.
    pub(crate) fn renew_principal(&self, wake: &Arc<Wake>, principal: Arc<Principal>) {
        let about = &wake.about;
        if principal.policy.is_some() {
            // Before it can be seen.
            about.plain.store(false, Ordering::SeqCst);
        }
        let before = about.principal.swap(principal);
        self.expect_end(wake, before.expires_at);
    }

    /// The connection is to end when what its client was let in with is over, and not when it was to end before.
    fn expect_end(&self, wake: &Wake, before: Option<u64>) {
        let end = wake.about.principal().expires_at;
        if before.is_none() && end.is_none() {
            return;
        }
        let Some(session) = wake.about.session.upgrade() else {
            return;
        };
        let mut expiring = self.expiring.lock();
        if let Some(before) = before {
            expiring.remove(&(before, session.number));
        }
        if let Some(end) = end {
            expiring.insert((end, session.number));
        }
    }

    /// Ends the connections whose credentials are over at `now`, in Unix seconds.
    pub(super) fn end_expired(&self, now: u64) {
        let due: Vec<_> = {
            let mut expiring = self.expiring.lock();
            let later = expiring.split_off(&(now + 1, 0));
            std::mem::replace(&mut *expiring, later)
                .into_iter()
                .collect()
        };
        for (end, number) in due {
            let wake = self.connections.lock().get(&number).cloned();
            let still = |wake: &Arc<Wake>| wake.about.principal().expires_at == Some(end);
            if let Some(wake) = wake.filter(still) {
                self.metrics.credential_expired();
                if let Some(client) = LiveClient::of(wake.clone()) {
                    let reason = ReasonCode::MAXIMUM_CONNECT_TIME;
                    self.tell_ended(&client, reason, "the time of the credential is over");
                }
                wake.close(CloseRequest::Expired);
            }
        }
    }

    fn tell_ended(&self, client: &LiveClient, reason: ReasonCode, why: &str) {
        if self.audit.wants(Kind::Ended) {
            let event = Event::new(Kind::Ended)
                .peer(client.peer)
                .client(&client.client_id)
                .principal(&client.principal)
                .reason(reason)
                .why(why);
            self.audit.record(event);
        }
    }

    /// Ends the connections whose credentials are no longer good; gives back how many.
    pub(crate) fn end_withdrawn(&self) -> usize {
        let ended = self.end_where(EndReason::Revoked, |client| {
            let holds = self
                .auth
                .holds(&client.principal, client.wake.about.certificate());
            if !holds {
                self.metrics.credential_revoked();
                let why = "the credential is no longer good";
                self.tell_ended(client, ReasonCode::NOT_AUTHORIZED, why);
            }
            !holds
        });
        if ended > 0 {
            tracing::info!(
                clients = ended,
                "clients were disconnected: their credentials are no longer good"
            );
        }
        ended
    }

    /// The rules have changed: subscriptions and wills that are no longer allowed are taken away, and those clients told.
    /// Gives back how many clients have lost something.
    pub(crate) fn recheck_all(self: &Arc<Self>) -> usize {
        let open = self.open_connections();
        open.iter().filter(|wake| self.recheck(wake)).count()
    }

    /// Looks again at what a client has. If something was taken away, the connection ends with 0x87: the client cannot be
    /// told otherwise.
    pub(crate) fn recheck(self: &Arc<Self>, wake: &Wake) -> bool {
        let Some(session) = wake.about.session.upgrade() else {
            return false;
        };
        let mine = |now: &Arc<Wake>| std::ptr::eq(Arc::as_ptr(now), wake);
        if !session.lock().wake.as_ref().is_some_and(mine) {
            return false;
        }
        let lost = self.take_away(&session, &wake.about.principal());
        if lost {
            wake.close(CloseRequest::NotAuthorized);
        }
        lost
    }

    /// Removes from a session what `who` may not have, in the store too; `true` if there was anything.
    pub(crate) fn take_away(self: &Arc<Self>, session: &Arc<Session>, who: &Principal) -> bool {
        if self.auth.allows_all() && who.policy.is_none() {
            return false;
        }
        let client_id = &*session.client_id;
        let asks = Who {
            principal: who,
            client_id: mount::own(client_id),
        };
        let mut filtered = false;
        let subscriptions: Vec<_> = {
            let state = session.lock();
            let all = state.subscriptions.iter();
            all.map(|(filter, subscription)| (filter.clone(), subscription.options.qos))
                .collect()
        };
        let mut ops = Vec::new();
        let mut lost = 0_usize;
        for (filter, qos) in subscriptions {
            let decision = self.judge(asks, &filter, qos);
            filtered |= matches!(decision, Some(Decision::Filtered(_)));
            let kept = decision.is_some();
            if !kept {
                tracing::info!(client = client_id, %filter, "subscription taken away: it is no longer allowed");
                self.unsubscribe(session, &filter, &mut ops);
                lost += 1;
            }
        }
        lost += usize::from(self.take_will(session, asks, &mut ops));
        if filtered {
            self.filter_all(session);
        }
        if !ops.is_empty() {
            let ticket = self.submit(ops);
            let mut state = session.lock();
            state.last_ticket = state.last_ticket.max(ticket);
        }
        lost > 0
    }

    /// What is said to a subscription that a session has, if it may keep it.
    fn judge(&self, who: Who<'_>, filter: &str, qos: QoS) -> Option<Decision> {
        let own = mount::own_filter(filter);
        let decision = self.auth.decide(who, Action::Subscribe { qos }, &own);
        let kept =
            matches!(decision, Decision::Granted(max) | Decision::Filtered(max) if max >= qos);
        kept.then_some(decision)
    }

    /// Whether a session may keep a subscription.
    pub(super) fn may_keep(
        &self,
        session: &Session,
        who: &Principal,
        filter: &str,
        subscription: Subscription,
    ) -> bool {
        let who = Who {
            principal: who,
            client_id: mount::own(&session.client_id),
        };
        let kept = self.judge(who, filter, subscription.options.qos).is_some();
        if !kept {
            tracing::info!(client = %session.client_id, filter, "subscription taken away: it is no longer allowed");
        }
        kept
    }

    /// From now on every message to the client is looked at: it has a subscription that is wider than what it may read.
    pub(crate) fn filter_all(&self, session: &Session) {
        let mut state = session.lock();
        let state = &mut *state;
        if let (Some(link), Some(wake)) = (&mut state.delivering.link, &state.wake) {
            let held = state.subscriptions.iter();
            let held = held.map(|(filter, subscription)| (&**filter, subscription));
            let gate = RulesGate::new(&self.auth, wake, &session.client_id, held);
            link.set_gate(Box::new(gate), true);
        }
    }

    /// The gate that a session needs which is resumed and has a stored queue: what waits there was put there under other rules.
    pub(super) fn gate_for<'s>(
        &self,
        session: &Session,
        wake: &Arc<Wake>,
        held: impl Iterator<Item = (&'s str, &'s Subscription)>,
    ) -> Option<Box<RulesGate>> {
        let open = self.auth.allows_all() && wake.about.principal().policy.is_none();
        let gated = session.store_id.is_some() && !open;
        gated.then(|| Box::new(RulesGate::new(&self.auth, wake, &session.client_id, held)))
    }

    /// Forgets a will that may no longer be published.
    fn take_will(&self, session: &Session, who: Who<'_>, ops: &mut Vec<Op>) -> bool {
        let mut state = session.lock();
        let Some(will) = &state.will else {
            return false;
        };
        let message = &will.message;
        let action = Action::Publish {
            qos: message.qos(),
            retain: message.retain(),
        };
        let own = mount::own(message.topic());
        if self.auth.decide(who, action, own).is_allowed() {
            return false;
        }
        tracing::info!(client = %session.client_id, topic = message.topic(), "will taken away: it is no longer allowed");
        state.will = None;
        let client_id = session.client_id.clone();
        ops.push(match self.cluster {
            Some(_) => Op::DeleteWillOf {
                client_id,
                epoch: Epoch(state.epoch),
            },
            None => Op::DeleteWill { client_id },
        });
        true
    }
}

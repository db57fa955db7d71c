//! A broker within the process, without sockets: for fuzzing and for tests of whole conversations.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use dunlin_sync::cluster::Cluster;
use dunlin_sync::{Store, StoreError};
use futures_util::FutureExt as _;
use tokio::io::DuplexStream;
use tokio::task::JoinHandle;

use crate::auth::Auth;
use crate::config::ListenerKind;
use crate::connection;
use crate::hub::{Backing, Hub, HubConfig};
use crate::net::gate::Gate;
use crate::net::slots::Slots;
use crate::net::{Accepted, Admission, ListenerInfo, Slot, Transport};
use crate::ops::{Health, Metrics};

/// A broker that anybody may use, reached by pipes.
#[derive(Debug)]
pub struct InProcess {
    hub: Arc<Hub>,
    listener: Arc<ListenerInfo>,
    gate: Arc<Gate>,
}

impl InProcess {
    /// Starts a broker over `store`. Must be called within a Tokio runtime.
    ///
    /// # Errors
    ///
    /// The store cannot be read.
    pub fn start(config: HubConfig, store: Arc<dyn Store>) -> Result<Self, StoreError> {
        Self::with(config, Backing::Own(store))
    }

    /// Starts a broker as a replica of a cluster; [`Hub::join`] makes it one.
    ///
    /// # Errors
    ///
    /// The store cannot be read.
    pub fn start_shared(config: HubConfig, cluster: Arc<dyn Cluster>) -> Result<Self, StoreError> {
        Self::with(config, Backing::Shared(cluster))
    }

    fn with(config: HubConfig, backing: Backing) -> Result<Self, StoreError> {
        let metrics = Arc::new(Metrics::default());
        let gate = Gate::new(0, 0, 1_000_000, Arc::clone(&metrics));
        let hub = Hub::start(
            config,
            backing,
            Arc::new(Auth::open()),
            metrics,
            Arc::new(Health::default()),
        )?;
        let listener = Arc::new(ListenerInfo {
            name: Arc::from("in-process"),
            kind: ListenerKind::Tcp,
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 1883)),
            anonymous: true,
            auth: Arc::new([]),
            websocket_hint: Arc::from(""),
            tenant: None,
        });
        Ok(Self {
            hub,
            listener,
            gate,
        })
    }

    /// Connects: the client's end of a pipe that holds `buffer` bytes each way, and the task that
    /// serves the other end.
    /// `None`: a million handshakes are under way.
    #[must_use]
    pub fn connect(&self, buffer: usize) -> Option<(DuplexStream, JoinHandle<()>)> {
        let (client, server) = tokio::io::duplex(buffer);
        let accepted = Accepted {
            transport: Transport::Memory(server),
            peer: SocketAddr::from((Ipv4Addr::LOCALHOST, 1)),
            listener: self.listener.clone(),
            tls_name: None,
            certificate: None,
            sni: None,
            accepted_at: tokio::time::Instant::now().into_std(),
            admission: Admission {
                slot: Slot::take(&[Slots::new(1)]),
                place: self.gate.enter().now_or_never()?,
                here: None,
                shaking: None,
            },
        };
        let task = tokio::spawn(connection::serve(self.hub.clone(), accepted));
        Some((client, task))
    }

    /// The broker.
    #[must_use]
    pub fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }
}

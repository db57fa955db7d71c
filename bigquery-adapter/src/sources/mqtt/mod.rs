//! The MQTT source: subscribes with a persistent session, and acknowledges a message when its row is stored.
//!
//! Whatever happens to adapter, broker or network, the broker keeps what has not been acknowledged and sends it again
//! when the session is resumed. [`session`] says what is done with a message that comes twice.
//!
//! Connections are made again for ever, with growing pauses: the broker holds the data meanwhile, and whoever repairs the
//! broker should not have to think of the adapter. The adapter is not ready as long as there is no connection, and says
//! why in its log.

mod connection;
mod error;
mod link;
mod rows;
pub mod session;
mod settings;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use backon::BackoffBuilder;
use dunlin_protocol::Version;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

pub use error::ConnectionError;
pub use settings::{Settings, VersionChoice};

use crate::batch::Batch;
use crate::error::Code;
use crate::health::{Health, Part};
use crate::ledger::Ledger;
use crate::mqtt_client::{self, Accepted, HandshakeError, Hello};
use crate::ops::metrics::Metrics;
use crate::pipeline::{Intake, QUEUE_BATCHES, SinkStopped};
use rows::RowMaker;
use session::Session;

/// A connection that lasted this long was a success: the next pause is short again.
const SETTLED: Duration = Duration::from_secs(5);
const SHORTEST_PAUSE: Duration = Duration::from_millis(200);

/// The source.
#[derive(Debug)]
pub struct MqttSource {
    settings: Settings,
    session: Session,
    /// What the session is subscribed to, as far as we know.
    subscribed: Vec<String>,
    version: Version,
    intake: Intake,
    /// Last position and bytes of each batch that is not known to be stored.
    queued: VecDeque<(u64, usize)>,
    queued_bytes: usize,
    rows: RowMaker,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
}

impl MqttSource {
    /// A source that goes on where `ledger` ends.
    #[must_use]
    pub fn new(
        settings: Settings,
        ledger: &Ledger,
        intake: Intake,
        health: Arc<Health>,
        metrics: Arc<Metrics>,
    ) -> Self {
        health.set(Part::Source, Some("not connected yet".to_owned()));
        Self {
            session: Session::new(ledger, settings.receive_maximum),
            subscribed: ledger.filters().to_vec(),
            version: if settings.version == VersionChoice::V311 {
                Version::V311
            } else {
                Version::V5
            },
            intake,
            queued: VecDeque::new(),
            queued_bytes: 0,
            rows: RowMaker::new(settings.client_id_property.clone()),
            health,
            metrics,
            settings,
        }
    }

    /// Runs until `shutdown` becomes true, then acknowledges what can be and says goodbye.
    ///
    /// Everything read has been given to the sink when this returns; it is stored by the time the sink is closed.
    /// Not cancel safe: when dropped, nothing is lost, but what was stored and not acknowledged will come again.
    ///
    /// # Errors
    /// When the sink has stopped.
    pub async fn run(mut self, mut shutdown: watch::Receiver<bool>) -> Result<(), SinkStopped> {
        let mut pauses = self.pauses();
        while !*shutdown.borrow_and_update() {
            let begun = Instant::now();
            let connected = tokio::select! {
                connected = self.connect() => connected,
                _ = shutdown.wait_for(|stop| *stop) => return Ok(()),
            };
            let ended = match connected {
                Ok(accepted) => self.serve(accepted, &mut shutdown).await,
                Err(error) => Err(error),
            };
            let Err(error) = ended else { return Ok(()) };
            self.session.disconnected();
            self.metrics.connected.set(0);
            match error {
                ConnectionError::Sink(stopped) => return Err(stopped),
                ConnectionError::Handshake(HandshakeError::Version {
                    version: Version::V5,
                }) if self.settings.version == VersionChoice::Auto
                    && self.version == Version::V5 =>
                {
                    tracing::info!("the broker does not speak mqtt 5: going on with 3.1.1");
                    self.version = Version::V311;
                    continue;
                }
                error => self.report(&error),
            }
            if begun.elapsed() > SETTLED {
                pauses = self.pauses();
            }
            let pause = pauses.next().unwrap_or(self.settings.reconnect_max);
            tokio::select! {
                () = sleep(pause) => {}
                _ = shutdown.wait_for(|stop| *stop) => return Ok(()),
            }
        }
        Ok(())
    }

    fn pauses(&self) -> impl Iterator<Item = Duration> + use<> {
        backon::ExponentialBuilder::default()
            .with_min_delay(SHORTEST_PAUSE)
            .with_max_delay(self.settings.reconnect_max)
            .without_max_times()
            .with_jitter()
            .build()
    }

    fn report(&self, error: &ConnectionError) {
        let (code, broker) = (error.code().as_str(), self.settings.address.to_string());
        self.health
            .set(Part::Source, Some(format!("{code}: {error}")));
        match error.code() {
            // These go on until a human acts.
            Code::REFUSED
            | Code::SUBSCRIPTION
            | Code::TAKEN_OVER
            | Code::PACKET_TOO_LARGE
            | Code::TLS => {
                tracing::error!(code, broker, "{error}; trying again");
            }
            _ => tracing::warn!(code, broker, "{error}; trying again"),
        }
    }

    async fn connect(&self) -> Result<Accepted, ConnectionError> {
        let settings = &self.settings;
        let hello = Hello {
            version: self.version,
            client_id: &settings.client_id,
            username: settings.username.as_deref(),
            password: settings.password.as_deref(),
            keep_alive: settings.keep_alive,
            session_expiry: settings.session_expiry,
            receive_maximum: settings.receive_maximum,
            max_packet: settings.max_packet,
            topic_aliases: rows::TOPIC_ALIASES,
        };
        let tls = settings
            .tls
            .as_ref()
            .map(|(config, name)| (config, name.as_str()));
        let limit = settings.connect_timeout;
        let connected = timeout(limit, mqtt_client::connect(&settings.address, tls, &hello)).await;
        let connected = match connected {
            Ok(connected) => connected.map_err(ConnectionError::from),
            Err(_) => Err(ConnectionError::Timeout(
                u64::try_from(limit.as_millis()).unwrap_or(u64::MAX),
            )),
        };
        match &connected {
            Ok(_) => self.metrics.connections.inc(),
            Err(_) => self.metrics.connect_failures.inc(),
        };
        connected
    }

    /// Hands a batch over and counts it.
    fn give(&mut self, batch: Batch) -> Result<(), SinkStopped> {
        if batch.is_empty() {
            return Ok(());
        }
        let bytes = batch.as_bytes().len();
        self.queued.push_back((batch.last_position(), bytes));
        self.queued_bytes += bytes;
        self.intake.give(batch)
    }

    /// Takes note of what is stored; returns up to where.
    fn note_committed(&mut self) -> u64 {
        let position = self.intake.committed();
        while let Some((_, bytes)) = self.queued.front().filter(|(last, _)| *last <= position) {
            self.queued_bytes -= bytes;
            self.queued.pop_front();
        }
        self.metrics
            .queued_bytes
            .set(i64::try_from(self.queued_bytes).unwrap_or(i64::MAX));
        position
    }

    /// Whether more may be read: the bound on what waits for the sink.
    fn has_room(&self) -> bool {
        // Some batches of room are kept for entries that are not read from the socket.
        self.queued_bytes < self.settings.buffer_bytes && self.queued.len() < QUEUE_BATCHES - 4
    }
}

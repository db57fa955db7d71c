//! The wish to stop, told once to everybody.

use std::sync::Arc;

use tokio::sync::watch;

/// A handle on the wish to stop. Clones share it.
#[derive(Debug, Clone)]
pub struct Shutdown(Arc<watch::Sender<bool>>);

impl Default for Shutdown {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }
}

impl Shutdown {
    /// Asks everybody to stop. More than once is the same as once.
    pub fn trigger(&self) {
        self.0.send_replace(true);
    }

    /// Whether the stop has been asked for.
    #[must_use]
    pub fn is_triggered(&self) -> bool {
        *self.0.borrow()
    }

    /// Resolves when the stop is asked for, at once if it was. Cancel safe.
    pub async fn wait(&self) {
        // The sender lives as long as this handle, so the channel cannot be closed meanwhile.
        let _closed = self.0.subscribe().wait_for(|stop| *stop).await.is_err();
    }

    /// From here on SIGTERM and SIGINT do not end the process but trigger; a second one ends it at
    /// once, with status 130 or 143 as a shell would report it. The future listens for them and
    /// never ends.
    ///
    /// # Errors
    /// When the system does not let the process listen for signals.
    pub fn on_signals(self) -> std::io::Result<impl Future<Output = ()> + Send> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        Ok(async move {
            loop {
                let (name, status) = tokio::select! {
                    _ = terminate.recv() => ("SIGTERM", 143),
                    _ = interrupt.recv() => ("SIGINT", 130),
                };
                if self.is_triggered() {
                    tracing::warn!(signal = name, "second signal: stopping without draining");
                    std::process::exit(status);
                }
                tracing::info!(
                    signal = name,
                    "stopping: no new connections, the open ones are being closed"
                );
                self.trigger();
            }
        })
    }
}

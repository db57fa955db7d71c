//! Opens the warehouse: what must be right before the first row.

use std::sync::Arc;

use super::layout::Layout;
use super::roller::Roller;
use super::warehouse::PartSizes;
use super::{ParquetSink, Settings, recovery};
use crate::error::WarehouseError;
use crate::health::Health;
use crate::ops::metrics::Metrics;

impl ParquetSink {
    /// Opens the warehouse and brings what is left in its journal into part files.
    ///
    /// # Errors
    /// When the directory cannot be used, is in use, or has files that cannot be understood. Nothing is dropped.
    pub fn open(
        settings: Settings,
        health: Arc<Health>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, WarehouseError> {
        let layout = Layout::new(&settings.path);
        let lock = recovery::prepare(&settings.path, &layout)?;
        let sizes = PartSizes {
            grow_rows: settings.grow_rows,
            grow_bytes: settings.grow_bytes,
            compact_rows: settings.compact_rows,
            compact_bytes: settings.compact_bytes,
        };
        let recovered = recovery::recover(&layout, settings.compression, sizes, settings.window)?;
        metrics.recovered_rows.inc_by(recovered.rows);
        let roller = Roller::start(
            recovered.warehouse,
            settings.compact,
            Arc::clone(&health),
            Arc::clone(&metrics),
        )
        .map_err(WarehouseError::path(
            "starting the roller of",
            &settings.path,
        ))?;
        Ok(Self {
            writer: recovered.writer,
            ledger: recovered.ledger,
            segment: recovered.segment,
            since: None,
            roller,
            health,
            metrics,
            _lock: lock,
            settings,
            layout,
        })
    }
}

//! Tables in memory, for what is not about REST.

use std::collections::BTreeMap;
use std::sync::Mutex;

use async_trait::async_trait;
use dunlin_bigquery_adapter::rules::Table;
use dunlin_bigquery_adapter::sinks::bigquery::tables::{Catalog, TableError};

/// Tables by name, as they were last wanted.
#[derive(Debug, Default)]
pub(crate) struct Memory(pub Mutex<BTreeMap<String, Table>>);

#[async_trait]
impl Catalog for Memory {
    fn path(&self, table: &str) -> String {
        format!("projects/p/datasets/d/tables/{table}")
    }

    async fn prepare(&self, table: &Table) -> Result<(), TableError> {
        self.0
            .lock()
            .unwrap()
            .insert(table.name.clone(), table.clone());
        Ok(())
    }
}

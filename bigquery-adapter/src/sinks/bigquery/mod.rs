//! BigQuery, through the Storage Write API.

use std::path::PathBuf;

use token::Credentials;

pub mod answer;
pub mod api;
pub mod checkpoint;
pub mod dead;
pub mod default_stream;
pub mod encode;
pub mod letters;
pub mod open;
pub mod partition;
pub mod progress;
pub mod run;
mod schema;
pub mod tables;
pub mod token;
pub mod window;
pub mod writer;

/// Settings of the sink.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Project.
    pub project: String,
    /// Dataset; must be there.
    pub dataset: String,
    /// Where tokens come from.
    pub credentials: Credentials,
    /// Address of the Storage Write API.
    pub endpoint: String,
    /// Address of the REST API.
    pub rest_endpoint: String,
    /// How rows are written.
    pub partition: partition::Settings,
    /// Table of messages that fit no other.
    pub dead_letter_table: String,
    /// Directory for dead letters while even that table takes nothing.
    pub dead_letter_directory: PathBuf,
}

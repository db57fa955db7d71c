//! BigQuery, through the Storage Write API.

pub mod answer;
pub mod api;
pub mod checkpoint;
pub mod dead;
pub mod encode;
pub mod partition;
pub mod progress;
pub mod run;
pub mod tables;
pub mod token;
pub mod window;
pub mod writer;

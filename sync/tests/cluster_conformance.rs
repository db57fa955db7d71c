//! The store of a cluster runs the same suite as every other, over the model of Redis and over a
//! real one.
#![allow(
    clippy::unwrap_used,
    reason = "a test that meets the unexpected has to stop"
)]

#[allow(dead_code, reason = "shared with the tests of the backplane")]
#[path = "support/redis.rs"]
mod redis_server;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dunlin_sync::Store;
use dunlin_sync::cluster::redis::{RedisBackplane, RedisOptions};
use dunlin_sync::cluster::testing::ModelRedis;
use dunlin_sync::cluster::{ClusterStore, EngineOptions};
use dunlin_sync::testing::Place;
use tokio::runtime::Runtime;

struct OverModel {
    runtime: Runtime,
    redis: ModelRedis,
    opened: AtomicU64,
}

impl OverModel {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let redis = runtime.block_on(async { ModelRedis::new(1) });
        Self {
            runtime,
            redis,
            opened: AtomicU64::new(1),
        }
    }
}

impl Place for OverModel {
    fn open(&self) -> Arc<dyn Store> {
        let options = EngineOptions {
            seed: self.opened.fetch_add(1, Ordering::Relaxed),
            ..EngineOptions::default()
        };
        let handle = self.runtime.handle().clone();
        let opened = self.runtime.block_on(async {
            ClusterStore::open(Arc::new(self.redis.connect()), options, handle).await
        });
        Arc::new(opened.unwrap())
    }

    fn now_ms(&self) -> u64 {
        self.redis.now_ms()
    }
}

struct OverRedis {
    runtime: Runtime,
    server: redis_server::RedisServer,
    opened: AtomicU64,
}

impl OverRedis {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        Self {
            runtime,
            server: redis_server::RedisServer::start(&[]),
            opened: AtomicU64::new(1),
        }
    }
}

impl Place for OverRedis {
    fn open(&self) -> Arc<dyn Store> {
        let options = EngineOptions {
            seed: self.opened.fetch_add(1, Ordering::Relaxed),
            ..EngineOptions::default()
        };
        let handle = self.runtime.handle().clone();
        let redis = RedisOptions::new(self.server.url());
        let backplane = RedisBackplane::start(redis, handle.clone()).unwrap();
        let opened =
            self.runtime
                .block_on(ClusterStore::open(Arc::new(backplane), options, handle));
        Arc::new(opened.unwrap())
    }
}

dunlin_sync::store_conformance!(over_the_model => OverModel::new());
dunlin_sync::store_reopen_conformance!(over_the_model_reopened => OverModel::new());
dunlin_sync::store_conformance!(over_redis => OverRedis::new());
dunlin_sync::store_reopen_conformance!(over_redis_reopened => OverRedis::new());
dunlin_sync::records_conformance!(records_over_the_model => OverModel::new());
dunlin_sync::records_reopen_conformance!(records_over_the_model_reopened => OverModel::new());
dunlin_sync::records_conformance!(records_over_redis => OverRedis::new());
dunlin_sync::records_reopen_conformance!(records_over_redis_reopened => OverRedis::new());

//! Reads a tap and throws away what it gets: what a consumer costs before it has done anything with a message.
//!
//! Makes the tap, listens on `--listen` when all replicas know of it (so that others can tell), and reads until it is killed.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use bytes::Bytes;
use clap::Parser;
use dunlin_sync::cluster::Backplane;
use dunlin_sync::cluster::redis::{RedisBackplane, RedisOptions};
use dunlin_sync::cluster::tap::{Consumer, ConsumerOptions, Definition, Event, define};

/// All replicas must know of the tap within so long.
const PATIENCE: Duration = Duration::from_secs(30);

/// Reads a tap.
#[derive(Debug, Parser)]
struct Args {
    /// Redis.
    #[arg(long)]
    redis: String,
    /// Name of the tap.
    #[arg(long, default_value = "bench")]
    tap: String,
    /// What it takes.
    #[arg(long, default_value = "#")]
    filter: String,
    /// Its partitions.
    #[arg(long, default_value_t = 4)]
    partitions: u16,
    /// Where it listens when it is ready.
    #[arg(long)]
    listen: String,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let handle = tokio::runtime::Handle::current();
    let redis = RedisBackplane::start(RedisOptions::new(&args.redis), handle)?;
    let backplane: Arc<dyn Backplane> = Arc::new(redis);
    let mut definition = Definition::new(&args.tap, [args.filter.as_str()]);
    definition.partitions = args.partitions;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    let number = now.as_nanos() as u64;
    define(&*backplane, &definition, number, PATIENCE).await?;
    let options = ConsumerOptions::default();
    let mut consumer = Consumer::join(backplane, &args.tap, number, options).await?;
    let listener = std::net::TcpListener::bind(&args.listen).context("cannot listen")?;
    let mut rows: u64 = 0;
    loop {
        if let Event::Batch(batch) = consumer.next().await? {
            let bytes: usize = batch.rows().map(|row| row.payload.len()).sum();
            rows += u64::from(bytes > 0);
            let checkpoint = Bytes::copy_from_slice(&rows.to_le_bytes());
            consumer.acknowledge(
                batch.partition,
                batch.epoch,
                batch.positions.end,
                checkpoint,
            )?;
        }
        drop(listener.set_nonblocking(true));
        while let Ok((stream, _)) = listener.accept() {
            drop(stream);
        }
    }
}

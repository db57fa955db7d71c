//! Where the rows go: a server in the test that keeps to offsets strictly and gives wrong answers on request, or the emulator.

use std::collections::VecDeque;
use std::net::SocketAddr;

use prost::Message as _;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use crate::emulator::{DATASET, Emulator, PROJECT};
use crate::fake::{Fake, Fault};
use crate::oracle::Row;
use crate::rest::Rest;
use crate::support::fleet::Random;

/// Rows that the emulator is asked for at a time.
const PAGE: usize = 2_000;

/// A row as the strict server keeps it: fields that matter here, by their numbers in the default table.
#[derive(Clone, PartialEq, prost::Message)]
struct Stored {
    #[prost(int64, optional, tag = "1")]
    received_at: Option<i64>,
    #[prost(string, optional, tag = "2")]
    topic: Option<String>,
    #[prost(bytes = "vec", optional, tag = "3")]
    payload: Option<Vec<u8>>,
    #[prost(string, optional, tag = "7")]
    client_id: Option<String>,
    #[prost(string, optional, tag = "8")]
    message_id: Option<String>,
}

enum Kind {
    Strict(Fake),
    Emulator(Emulator),
}

/// BigQuery's place.
pub(crate) struct Warehouse {
    kind: Kind,
    pub(crate) grpc: SocketAddr,
    pub(crate) rest: SocketAddr,
    runtime: Runtime,
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
}

/// Where a URL of the emulator leads.
fn address(url: &str) -> SocketAddr {
    let rest = url.strip_prefix("http://").unwrap();
    rest.split('/').next().unwrap().parse().unwrap()
}

impl Warehouse {
    /// The strict server.
    pub(crate) fn strict() -> Self {
        let runtime = runtime();
        let fake = Fake::default();
        // Appends are executed up to so much later, those of the dead, too.
        fake.state().late_ms = 30;
        let rest = Rest::new(&format!("{PROJECT}/datasets/{DATASET}"));
        let bind = || runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let (grpc, http) = (bind(), bind());
        let addresses = (grpc.local_addr().unwrap(), http.local_addr().unwrap());
        runtime.spawn(fake.clone().serve(grpc));
        runtime.spawn(rest.serve(http));
        Self {
            kind: Kind::Strict(fake),
            grpc: addresses.0,
            rest: addresses.1,
            runtime,
        }
    }

    /// The emulator, as a process.
    pub(crate) fn emulator() -> Self {
        let runtime = runtime();
        let emulator = Emulator::start();
        runtime.block_on(emulator.make_dataset());
        Self {
            grpc: address(&emulator.grpc),
            rest: address(&emulator.rest),
            kind: Kind::Emulator(emulator),
            runtime,
        }
    }

    /// Now and then something else than the right answer, from the server that can be told to.
    pub(crate) fn misbehave(&self, random: &mut Random) {
        let Kind::Strict(fake) = &self.kind else {
            return;
        };
        let faults: VecDeque<_> = (0..60).map(|_| fault(random)).collect();
        fake.state().faults = faults;
    }

    /// Right answers, at once.
    pub(crate) fn behave(&self) {
        if let Kind::Strict(fake) = &self.kind {
            fake.state().faults.clear();
            fake.state().late_ms = 0;
        }
    }

    /// Rows that are there.
    pub(crate) fn count(&self) -> usize {
        match &self.kind {
            Kind::Strict(fake) => fake.state().tables.get(&table()).map_or(0, Vec::len),
            Kind::Emulator(emulator) => {
                let sql = format!("select count(*) from {DATASET}.messages");
                let rows = self.runtime.block_on(emulator.query(&sql));
                rows[0][0].as_ref().unwrap().parse().unwrap()
            }
        }
    }

    /// Streams that were made, if that is known.
    pub(crate) fn streams(&self) -> Option<u32> {
        match &self.kind {
            Kind::Strict(fake) => Some(fake.state().created),
            Kind::Emulator(_) => None,
        }
    }

    /// All rows: of the strict server in the order in which they were stored, of the emulator, which does not tell, in that of `received_at`.
    pub(crate) fn rows(&self) -> Vec<Row> {
        match &self.kind {
            Kind::Strict(fake) => {
                let state = fake.state();
                let rows = state.tables.get(&table()).into_iter().flatten();
                rows.map(|row| strict_row(row)).collect()
            }
            Kind::Emulator(emulator) => {
                let mut rows = Vec::new();
                loop {
                    let page = self.runtime.block_on(emulator.query(&format!(
                        "select client_id, topic, unix_micros(received_at), message_id, safe_convert_bytes_to_string(payload) \
                         from {DATASET}.messages order by received_at, message_id limit {PAGE} offset {}",
                        rows.len()
                    )));
                    let last = page.len() < PAGE;
                    rows.extend(page.into_iter().map(emulator_row));
                    if last {
                        return rows;
                    }
                }
            }
        }
    }
}

fn table() -> String {
    format!("projects/{PROJECT}/datasets/{DATASET}/tables/messages")
}

fn fault(random: &mut Random) -> Option<Fault> {
    (random.below(100) < 10).then(|| Fault::numbered(random.below(9)))
}

fn strict_row(row: &[u8]) -> Row {
    let row = Stored::decode(row).unwrap();
    let payload = String::from_utf8(row.payload.unwrap()).unwrap();
    Row {
        client: row.client_id.unwrap(),
        topic: row.topic.unwrap(),
        received_at: row.received_at.unwrap(),
        id: row.message_id.unwrap(),
        len: payload.len(),
        text: payload.trim_end().to_owned(),
    }
}

fn emulator_row(row: Vec<Option<String>>) -> Row {
    let mut cells = row.into_iter().map(Option::unwrap);
    let mut next = || cells.next().unwrap();
    let [client, topic, received_at, id, payload] = std::array::from_fn(|_| next());
    Row {
        client,
        topic,
        received_at: received_at.parse().unwrap(),
        id,
        len: payload.len(),
        text: payload.trim_end().to_owned(),
    }
}

//! The same requests, drawn by a seed, get the same answers from the model and from Redis.

use std::collections::BTreeSet;

use bytes::Bytes;
use dunlin_sync::cluster::redis::RedisBackplane;
use dunlin_sync::cluster::tap::{TapBound, TapReply, TapRequest};
use dunlin_sync::cluster::testing::{ModelBackplane, ModelRedis};
use dunlin_sync::cluster::{AppendFate, Backplane, ReplicaId, Reply, Request};
use tokio::runtime::Handle;

use crate::rig::{append, appending, at};
use crate::support::{LIMIT, RedisServer, options};

struct Draw {
    state: u64,
    numbers: u64,
    counts: u64,
    attempts: u32,
    epochs: [u64; 2],
    tails: [u64; 2],
}

impl Draw {
    fn below(&mut self, bound: u64) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % bound
    }

    fn append(&mut self, partition: u16) -> Request {
        let entries = (0..=self.below(5))
            .map(|_| {
                self.numbers += 1;
                let once = (self.below(4) == 0).then(|| {
                    self.counts += 1;
                    (
                        self.below(3),
                        self.counts - self.below(2).min(self.counts - 1),
                    )
                });
                appending(self.numbers, once)
            })
            .collect();
        let bound = TapBound {
            messages: 40,
            bytes: 4000,
            drop_oldest: partition == 1,
        };
        if self.below(6) == 0 {
            self.attempts += 1;
        }
        append(1 + self.below(2), partition, self.attempts, bound, entries)
    }

    fn next(&mut self) -> Request {
        let partition = self.below(2) as u16;
        let of = at(partition);
        let held = self.epochs[usize::from(partition)];
        let tail = self.tails[usize::from(partition)];
        let epoch = match self.below(8) {
            0 => held + 1,
            _ => held,
        };
        Request::Tap(match self.below(21) {
            0..8 => return self.append(partition),
            8..11 => TapRequest::Lease {
                of,
                consumer: 1 + self.below(2),
                epoch: if self.below(3) == 0 { 0 } else { epoch },
                lease_ms: 600_000,
                grace_ms: 600_000,
            },
            11 => TapRequest::Release { of, epoch },
            12..15 => TapRequest::Read {
                of,
                epoch,
                from: tail.saturating_sub(self.below(60)).max(1),
                max_bytes: 1 + self.below(2000),
            },
            15..18 => TapRequest::Acknowledge {
                of,
                epoch,
                upto: tail.saturating_sub(self.below(50)).max(1),
                number: 1 + self.below(50),
                checkpoint: Bytes::from(self.below(100).to_string()),
            },
            18 => TapRequest::Member {
                tap: "t".into(),
                consumer: 1 + self.below(5),
                lease_ms: if self.below(3) == 0 { 0 } else { 600_000 },
            },
            19 => TapRequest::Look { of },
            _ if self.below(2) == 0 => TapRequest::Known {
                tap: "t".into(),
                replica: ReplicaId(1 + self.below(5)),
                revision: self.below(u64::MAX),
            },
            _ => TapRequest::WhoKnows { tap: "t".into() },
        })
    }
}

async fn answer(backplane: &dyn Backplane, request: &Request) -> Reply {
    let answers = tokio::time::timeout(LIMIT, backplane.execute(vec![request.clone()])).await;
    let mut answer = answers
        .unwrap()
        .remove(0)
        .unwrap_or_else(|error| panic!("{request:?}: {error}"));
    // Their clocks differ, and no lease ends meanwhile.
    if let Reply::Tap(TapReply::Seen { left_ms, .. }) = &mut answer {
        *left_ms = u64::from(*left_ms > 0);
    }
    answer
}

async fn run(seed: u64, url: &str, met: &mut BTreeSet<&'static str>) {
    let mut redis = options(url);
    redis.prefix = format!("taps-{seed}");
    let redis = RedisBackplane::start(redis, Handle::current()).unwrap();
    let model: ModelBackplane = ModelRedis::new(seed).connect();
    let mut draw = Draw {
        state: seed,
        numbers: 0,
        counts: 0,
        attempts: 1,
        epochs: [0; 2],
        tails: [1; 2],
    };
    let mut last = None;
    for step in 0..600 {
        let request = match last.take() {
            Some(request) if draw.below(6) == 0 => request,
            _ => draw.next(),
        };
        last = Some(request.clone());
        let says = answer(&model, &request).await;
        let real = answer(&redis, &request).await;
        assert_eq!(says, real, "seed {seed} step {step}: {request:?}");
        let partition = match &request {
            Request::Tap(request) => request
                .partition()
                .map_or(0, |of| usize::from(of.partition)),
            _ => 0,
        };
        match real {
            Reply::Appended { seqs, .. } => {
                for fate in seqs {
                    met.insert(match fate {
                        AppendFate::At(position) => {
                            draw.tails[partition] = draw.tails[partition].max(position + 1);
                            "appended"
                        }
                        AppendFate::Full => "full",
                        AppendFate::Repeated => "repeated",
                        AppendFate::Gone => "gone",
                    });
                }
            }
            Reply::Fenced => {
                met.insert("fenced");
            }
            Reply::Tap(TapReply::Leased { epoch, level, .. }) => {
                draw.epochs[partition] = epoch;
                met.insert(if level.dropped > 0 {
                    "dropped"
                } else {
                    "leased"
                });
            }
            Reply::Tap(TapReply::Seen { first, .. }) => {
                met.insert(if first.is_some() {
                    "seen"
                } else {
                    "seen empty"
                });
            }
            Reply::Tap(TapReply::Read { frames, .. }) if frames.len() > 1 => {
                met.insert("read");
            }
            _ => {}
        }
    }
    redis.close().await;
}

#[tokio::test]
async fn the_model_of_a_tap_and_redis_give_the_same_answers() {
    let server = RedisServer::start(&[]);
    let mut met = BTreeSet::new();
    for seed in 1..=20 {
        run(seed, &server.url(), &mut met).await;
    }
    let met: Vec<_> = met.into_iter().collect();
    let all = [
        "appended",
        "dropped",
        "fenced",
        "full",
        "leased",
        "read",
        "repeated",
        "seen",
        "seen empty",
    ];
    assert_eq!(met, all, "cases that were met");
}

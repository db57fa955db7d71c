//! Metrics, health, `$SYS`.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use dunlin_broker::{
    net::listener,
    ops::{self, Health, Metrics, metrics::Gauges, pulse},
    shutdown::Shutdown,
};
use dunlin_protocol::Version;
use dunlin_telemetry::catalogue;
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::rig::read_to_end;

/// `UPDATE_GOLDEN=1` writes the table anew.
#[test]
fn every_metric_is_documented_with_its_type_and_labels() {
    let metrics = Metrics::default();
    metrics.refused(catalogue::OPEN);
    let reason = [("reason", catalogue::OPEN.to_owned())];
    drop(metrics.protocol_errors.get_or_create(&reason));
    metrics.certificate(catalogue::OPEN, 0);
    metrics.tenant(catalogue::OPEN);
    for version in [Version::V31, Version::V311, Version::V5] {
        drop(metrics.connection_opened(catalogue::OPEN, version));
    }
    let document = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
    let shown = metrics
        .render()
        .replace(env!("CARGO_PKG_VERSION"), catalogue::OPEN);
    if let Err(different) = catalogue::hold(document, "broker", &shown) {
        panic!("{different}");
    }
}

#[test]
fn what_is_counted_is_shown() {
    let metrics = Metrics::default();
    let gone = metrics.connection_opened("tcp-1883", Version::V311);
    drop(metrics.connection_opened("tcp-1883", Version::V5));
    metrics.connection_closed(&gone);
    metrics.received(3, 100, [1, 1, 0], 64);
    metrics.delivered([1, 0, 4], 500, 1);
    metrics.dropped(1, 2, 3, 4);
    metrics.set_gauges(&Gauges {
        sessions: 7,
        retained: 8,
        retained_bytes: 9,
        ..Gauges::default()
    });
    let text = metrics.render();
    for line in [
        "dunlin_clients_connected 1",
        "dunlin_clients_connected_max 2",
        "dunlin_clients_by_listener{listener=\"tcp-1883\",version=\"3.1.1\"} 0",
        "dunlin_clients_by_listener{listener=\"tcp-1883\",version=\"5.0\"} 1",
        "dunlin_connections_total 2",
        "dunlin_packets_received_total 3",
        "dunlin_received_bytes_total 100",
        "dunlin_publishes_received_total{qos=\"0\"} 1",
        "dunlin_publishes_received_total{qos=\"1\"} 1",
        "dunlin_publishes_sent_total{qos=\"2\"} 4",
        "dunlin_retransmissions_total 1",
        "dunlin_publishes_dropped_total{reason=\"queue_full\"} 1",
        "dunlin_publishes_dropped_total{reason=\"outbox_full\"} 2",
        "dunlin_publishes_dropped_total{reason=\"expired\"} 3",
        "dunlin_publishes_dropped_total{reason=\"too_large\"} 4",
        "dunlin_sessions 7",
        "dunlin_retained_messages 8",
        "dunlin_retained_bytes 9",
    ] {
        assert!(text.lines().any(|other| other == line), "{line}\n{text}");
    }
}

#[test]
fn sys_topics_have_the_names_and_forms_that_mosquitto_gives() {
    let metrics = Metrics::default();
    drop(metrics.connection_opened("tcp-1883", Version::V5));
    metrics.received(600, 6_000, [60, 0, 0], 6);
    metrics.delivered([0, 120, 0], 1_200, 0);
    metrics.set_gauges(&Gauges {
        sessions: 3,
        subscriptions: 4,
        retained: 5,
        ..Gauges::default()
    });
    let topics: BTreeMap<_, _> = metrics
        .sys_topics(Duration::from_secs(60))
        .into_iter()
        .collect();
    let broker = |name: &str| {
        topics
            .get(&format!("$SYS/broker/{name}"))
            .map(String::as_str)
    };
    assert_eq!(
        broker("version"),
        Some(concat!("dunlin ", env!("CARGO_PKG_VERSION")))
    );
    for (name, value) in [
        ("uptime", "60 seconds"),
        ("clients/connected", "1"),
        ("clients/disconnected", "2"),
        ("clients/total", "3"),
        ("clients/maximum", "1"),
        ("clients/expired", "0"),
        ("messages/received", "600"),
        ("messages/sent", "120"),
        ("store/messages/count", "5"),
        ("publish/messages/received", "60"),
        ("publish/messages/sent", "120"),
        ("publish/messages/dropped", "0"),
        ("publish/bytes/received", "6"),
        ("bytes/received", "6000"),
        ("subscriptions/count", "4"),
        ("retained messages/count", "5"),
    ] {
        assert_eq!(broker(name), Some(value), "{name}");
    }
    // 600 in the first minute: 600 * (1 - 1/e), and the longer averages less.
    assert_eq!(broker("load/messages/received/1min"), Some("379.27"));
    assert_eq!(broker("load/messages/received/5min"), Some("108.76"));
    assert_eq!(broker("load/messages/received/15min"), Some("38.70"));
    // Nothing in the second: it fades.
    let later: BTreeMap<_, _> = metrics
        .sys_topics(Duration::from_secs(120))
        .into_iter()
        .collect();
    assert_eq!(later["$SYS/broker/load/messages/received/1min"], "139.53");
}

#[test]
fn a_constant_rate_is_its_own_average() {
    let metrics = Metrics::default();
    for minute in 1..=120 {
        metrics.received(42, 0, [0; 3], 0);
        let topics: BTreeMap<_, _> = metrics
            .sys_topics(Duration::from_secs(60 * minute))
            .into_iter()
            .collect();
        if minute == 120 {
            assert_eq!(topics["$SYS/broker/load/messages/received/1min"], "42.00");
            assert_eq!(topics["$SYS/broker/load/messages/received/5min"], "42.00");
        }
    }
}

struct Endpoint {
    address: SocketAddr,
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    stop: Shutdown,
    task: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl Endpoint {
    fn start() -> Self {
        let socket = listener::bind("ops", SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address = socket.local_addr().unwrap();
        let (metrics, health, stop) = (
            Arc::new(Metrics::default()),
            Arc::new(Health::default()),
            Shutdown::default(),
        );
        let wait = stop.clone();
        let stopped = async move { wait.wait().await };
        let task = tokio::spawn(ops::http::serve(
            socket,
            Arc::clone(&metrics),
            Arc::clone(&health),
            stopped,
        ));
        Self {
            address,
            metrics,
            health,
            stop,
            task,
        }
    }

    /// Status and body.
    async fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let answer = String::from_utf8(read_to_end(&mut stream).await).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (
            head.split(' ').nth(1).unwrap().parse().unwrap(),
            body.to_owned(),
        )
    }
}

#[tokio::test]
async fn a_loop_that_stands_still_makes_the_broker_unready_and_later_dead() {
    let endpoint = Endpoint::start();
    let started = endpoint.get("/health/started").await;
    assert_eq!(started, (503, "starting\n".to_owned()));
    endpoint.health.set_started();
    let started = endpoint.get("/health/started").await;
    assert_eq!(started, (200, "started\n".to_owned()));
    let pulses = endpoint.health.pulses();
    pulses.watch("worker-1", pulse::Beats::default());
    for _ in 0..5 {
        pulses.look();
    }
    let words = "stalled: worker-1 has not moved for 5 s\n".to_owned();
    assert_eq!(endpoint.get("/health/ready").await, (503, words));
    let live = endpoint.get("/health/live").await;
    assert_eq!(live, (200, "live\n".to_owned()));
    for _ in 0..25 {
        pulses.look();
    }
    let words = "stalled: worker-1 has not moved for 30 s\n".to_owned();
    assert_eq!(endpoint.get("/health/live").await, (503, words));
}

#[tokio::test]
async fn the_loops_of_the_workers_move() {
    let workers = dunlin_broker::workers::Workers::start(2, |_late| {}).unwrap();
    let health = Health::default();
    for beats in workers.beats() {
        health.pulses().watch("worker", beats);
    }
    let stopped = tokio::task::spawn_blocking(move || {
        let before: Vec<_> = workers.beats().collect();
        let beaten = || {
            before
                .iter()
                .all(|beats| beats.load(std::sync::atomic::Ordering::Relaxed) > 1)
        };
        let end = std::time::Instant::now() + crate::rig::LIMIT;
        while !beaten() && std::time::Instant::now() < end {
            std::thread::sleep(Duration::from_millis(20));
        }
        let moved = beaten();
        workers.stop(Duration::ZERO);
        moved
    });
    assert!(stopped.await.unwrap());
}

#[tokio::test]
async fn readiness_says_why_not() {
    let endpoint = Endpoint::start();
    assert_eq!(
        endpoint.get("/health/live").await,
        (200, "live\n".to_owned())
    );
    assert_eq!(
        endpoint.get("/health/ready").await,
        (503, "starting\n".to_owned())
    );
    assert!(
        endpoint
            .get("/metrics")
            .await
            .1
            .contains("dunlin_ready 0\n")
    );
    endpoint.health.set_started();
    let shown = endpoint.get("/metrics").await.1;
    assert!(shown.contains("dunlin_ready 1\n") && shown.contains("dunlin_draining 0\n"));
    assert_eq!(
        endpoint.get("/health/ready").await,
        (200, "ready\n".to_owned())
    );
    assert!(endpoint.health.set_store_failed("no space left"));
    assert!(
        !endpoint.health.set_store_failed("no space left"),
        "known already"
    );
    endpoint.health.set_draining();
    assert_eq!(
        endpoint.get("/health/ready").await,
        (503, "draining\nstore: no space left\n".to_owned())
    );
    endpoint.health.set_store_well();
    endpoint
        .health
        .set_overloaded(Some("100 of 100 connections are open".to_owned()));
    assert_eq!(
        endpoint.get("/health/ready").await,
        (
            503,
            "draining\noverload: 100 of 100 connections are open\n".to_owned()
        )
    );
}

#[tokio::test]
async fn the_endpoint_shows_metrics_and_ends_when_told() {
    let endpoint = Endpoint::start();
    endpoint.metrics.takeover();
    let (status, body) = endpoint.get("/metrics").await;
    assert_eq!(status, 200);
    assert!(
        body.contains("dunlin_takeovers_total 1\n") && body.ends_with("# EOF\n"),
        "{body}"
    );
    assert!(endpoint.get("/").await.1.contains("/health/ready"));
    assert_eq!(endpoint.get("/nothing").await.0, 404);
    endpoint.stop.trigger();
    tokio::time::timeout(crate::rig::LIMIT, endpoint.task)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
}

//! Rows per second and CPU time per row of the adapter as a process, fed by a broker that does nothing else.
//!
//! `cargo bench -p dunlin-bigquery-adapter` prints a table; run as a test it is a small run of each line.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a tool that prints and that fails by panicking"
)]

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use dunlin_protocol::{
    Ack, ConnAck, Packet, PacketId, Properties, Publish, QoS, ReasonCode, Sender, SubAck, Version,
    decode, peek_frame,
};

struct Broker {
    stream: TcpStream,
    input: Vec<u8>,
    window: usize,
}

impl Broker {
    fn accept(listener: &TcpListener) -> Self {
        let (stream, _) = listener.accept().unwrap();
        stream.set_nodelay(true).unwrap();
        let mut broker = Self {
            stream,
            input: Vec::new(),
            window: 20,
        };
        let mut subscribed = None;
        while subscribed.is_none() {
            let mut answer = Vec::new();
            let mut window = None;
            broker.packets(|packet| match packet {
                Packet::Connect(connect) => {
                    window = connect.properties.receive_maximum();
                    Packet::ConnAck(ConnAck::default())
                        .encode(Version::V5, &mut answer)
                        .unwrap();
                }
                Packet::Subscribe(subscribe) => {
                    subscribed = Some(subscribe.packet_id);
                    let (packet_id, properties) = (subscribe.packet_id, Properties::EMPTY);
                    let granted = SubAck {
                        packet_id,
                        properties,
                        reason_codes: &[2],
                    };
                    Packet::SubAck(granted)
                        .encode(Version::V5, &mut answer)
                        .unwrap();
                }
                other => panic!("unexpected {other:?}"),
            });
            broker.window = window.map_or(broker.window, usize::from);
            broker.stream.write_all(&answer).unwrap();
        }
        broker
    }

    /// Reads once and hands out the whole packets.
    fn packets(&mut self, mut each: impl FnMut(Packet<'_>)) {
        let mut bytes = vec![0; 1 << 16];
        let read = self.stream.read(&mut bytes).unwrap();
        assert!(read > 0, "the adapter has gone away");
        self.input.extend_from_slice(&bytes[..read]);
        let mut at = 0;
        while let Some(header) = peek_frame(&self.input[at..], u32::MAX).unwrap() {
            let Some(frame) = self.input.get(at..at + header.total_len) else {
                break;
            };
            each(decode(frame, Version::V5, Sender::Client).unwrap());
            at += header.total_len;
        }
        self.input.drain(..at);
    }

    /// Publishes `rows` messages of a telemetry kind and waits until all are acknowledged.
    fn feed(&mut self, rows: usize, qos: QoS) {
        let (mut sent, mut done) = (0, 0);
        let mut out = Vec::new();
        while done < rows {
            while sent < rows && sent - done < self.window {
                publish(&mut out, sent, qos);
                sent += 1;
            }
            self.stream.write_all(&out).unwrap();
            out.clear();
            if qos == QoS::AtMostOnce {
                done = sent;
                continue;
            }
            self.packets(|packet| match packet {
                Packet::PubAck(_) | Packet::PubComp(_) => done += 1,
                Packet::PubRec(ack) => {
                    let release = Ack::new(ack.packet_id, ReasonCode::SUCCESS);
                    Packet::PubRel(release)
                        .encode(Version::V5, &mut out)
                        .unwrap();
                }
                Packet::PingReq => Packet::PingResp.encode(Version::V5, &mut out).unwrap(),
                other => panic!("unexpected {other:?}"),
            });
        }
    }
}

fn publish(out: &mut Vec<u8>, number: usize, qos: QoS) {
    let device = number % 100;
    let (hour, tenths) = (number % 24, number * 7919 % 400);
    let topic = format!("telemetry/seattle/seattle-{device:03}");
    let payload = format!(
        "{{\"station\":\"seattle\",\"device\":\"seattle-{device:03}\",\"time\":\"2010-01-{:02}T{hour:02}:00:00Z\",\
         \"temperature\":{}.{},\"unit\":\"F\"}}",
        number % 28 + 1,
        30 + tenths / 10,
        tenths % 10
    );
    let packet_id = if qos == QoS::AtMostOnce {
        None
    } else {
        PacketId::new((number % 65_535 + 1) as u16)
    };
    let publish = Publish {
        qos,
        topic: &topic,
        packet_id,
        payload: payload.as_bytes(),
        ..Publish::default()
    };
    Packet::Publish(publish).encode(Version::V5, out).unwrap();
}

/// User and system time of a process in seconds.
fn cpu(child: &Child) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    // Linux counts in hundredths for every program.
    ticks as f64 / 100.0
}

fn memory_mib(child: &Child) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

fn parquet_bytes(warehouse: &std::path::Path) -> u64 {
    let days = fs::read_dir(warehouse.join("messages")).unwrap().flatten();
    days.flat_map(|day| fs::read_dir(day.path()).unwrap().flatten())
        .map(|file| file.metadata().unwrap().len())
        .sum()
}

/// Waits until a counter of the adapter has reached `rows`, exactly.
fn wait_for_rows(ops: u16, counter: &str, rows: usize) {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        let mut text = String::new();
        let mut stream = TcpStream::connect(("127.0.0.1", ops)).unwrap();
        write!(stream, "GET /metrics HTTP/1.0\r\n\r\n").unwrap();
        stream.read_to_string(&mut text).unwrap();
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(counter)?.strip_prefix(' ')?.parse().ok());
        let value: usize = value.unwrap();
        assert!(
            value <= rows,
            "{counter} is {value}, and {rows} messages were sent"
        );
        if value == rows {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{counter} stays at {value} of {rows}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn measure(name: &str, rows: usize, qos: QoS, settings: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let warehouse = dir.path().join("warehouse");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("mqtt://{}", listener.local_addr().unwrap());
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let ops = free.local_addr().unwrap().port();
    drop(free);
    let mut command = Command::new(env!("CARGO_BIN_EXE_bigquery-adapter"));
    command.args([
        "--url",
        &url,
        "--qos",
        "2",
        "--ops-listen",
        &format!("127.0.0.1:{ops}"),
        "--log-level",
        "warn",
        "--set",
        "parquet.roll_ms=1000",
    ]);
    command
        .arg("--warehouse")
        .arg(&warehouse)
        .stdin(Stdio::null());
    for setting in settings {
        command.args(["--set", setting]);
    }
    let mut child = command.spawn().unwrap();
    let mut broker = Broker::accept(&listener);
    let (before, begun) = (cpu(&child), Instant::now());
    broker.feed(rows, qos);
    if qos == QoS::AtMostOnce {
        wait_for_rows(ops, "dunlin_adapter_committed_rows_total", rows);
    }
    let acknowledged = begun.elapsed();
    // Until everything is Parquet, so that the work of that is counted.
    wait_for_rows(ops, "dunlin_adapter_parquet_rows_total", rows);
    let (spent, peak) = (cpu(&child) - before, memory_mib(&child));
    let stored = parquet_bytes(&warehouse);
    child.kill().unwrap();
    child.wait().unwrap();
    println!(
        "{name:<28} {rows:>8} rows {:>9.0} rows/s {:>6.2} µs CPU/row {:>5.1} bytes/row {peak:>4} MiB peak",
        rows as f64 / acknowledged.as_secs_f64(),
        spent * 1e6 / rows as f64,
        stored as f64 / rows as f64,
    );
}

fn main() {
    let rows = if std::env::args().any(|argument| argument == "--bench") {
        1_000_000
    } else {
        2_000
    };
    measure("QoS 0", rows, QoS::AtMostOnce, &[]);
    measure("QoS 1, window 1000", rows, QoS::AtLeastOnce, &[]);
    measure(
        "QoS 1, window 20",
        rows / 10,
        QoS::AtLeastOnce,
        &["mqtt.receive_maximum=20"],
    );
    measure("QoS 2, window 1000", rows, QoS::ExactlyOnce, &[]);
    measure(
        "QoS 1, lz4",
        rows,
        QoS::AtLeastOnce,
        &["parquet.compression=lz4"],
    );
    measure(
        "QoS 1, not compressed",
        rows,
        QoS::AtLeastOnce,
        &["parquet.compression=none"],
    );
}

//! One serial number, one identity: asked for over HTTPS and over MQTT, on three replicas at once, and of replicas that die meanwhile.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Barrier;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64ct::{Base64UrlUnpadded, Encoding};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use serde_json::{Value, json};

use crate::{
    rig::{Cluster, cluster::ClusterSetup},
    support::{connecting::Connecting, *},
};

/// What came of a request: a status and what was said.
type Answer = (u64, Value);

/// How somebody asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Road {
    Https,
    Mqtt,
}

const ROADS: [Road; 2] = [Road::Https, Road::Mqtt];

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("after 1970").as_secs()
}

fn random() -> [u8; 16] {
    let mut bytes = [0; 16];
    SystemRandom::new().fill(&mut bytes).expect("randomness");
    bytes
}

fn nonce() -> String {
    random().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn key() -> KeyPair {
    KeyPair::generate().expect("a key")
}

/// A token that a key has signed.
fn token(pair: &KeyPair, claims: &Value) -> String {
    let random = SystemRandom::new();
    let der = pair.serialize_der();
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &der, &random);
    let encode = |text: &str| Base64UrlUnpadded::encode_string(text.as_bytes());
    let signed = format!(
        "{}.{}",
        encode(r#"{"alg":"ES256"}"#),
        encode(&claims.to_string())
    );
    let signature = key
        .expect("a key of ring's")
        .sign(&random, signed.as_bytes());
    let signature = Base64UrlUnpadded::encode_string(signature.expect("signed").as_ref());
    format!("{signed}.{signature}")
}

/// A request for a certificate.
fn for_certificate(serial: &str, key: &KeyPair) -> Value {
    let csr = CertificateParams::default().serialize_request(key);
    let pem = csr.expect("a request").pem().expect("PEM");
    json!({ "serial": serial, "nonce": nonce(), "csr": pem })
}

/// A request to have a key registered.
fn for_key(serial: &str, key: &KeyPair) -> Value {
    json!({ "serial": serial, "nonce": nonce(), "public_key": key.public_key_pem() })
}

/// A device that connects with a token which its own key has signed.
fn device(serial: &str, key: &KeyPair) -> Connecting {
    let token = token(key, &json!({ "iat": now(), "exp": now() + 600 }));
    connect(Version::V5, serial)
        .username(serial)
        .password(token.as_bytes())
}

/// Replicas, and the key of bootstrap tokens.
struct Plant {
    cluster: Cluster,
    line: KeyPair,
    _folder: tempfile::TempDir,
}

impl Plant {
    fn start(with: impl FnOnce(ClusterSetup) -> ClusterSetup) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let put = |name: &str, text: String| {
            let file = folder.path().join(name);
            std::fs::write(&file, text).expect("a file can be written");
            file.display().to_string()
        };
        let (line, authority) = (key(), key());
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&authority).expect("an authority");
        let setup = Cluster::setup(3)
            .set("auth.registry=true")
            .set("auth.anonymous=true")
            .set("auth.default=deny")
            .set("provisioning.listen=127.0.0.1:0")
            .set("provisioning.mqtt=true")
            .set("provisioning.listed_only=false")
            .set("provisioning.per_minute=100000")
            .set(&format!(
                "provisioning.keys={}",
                put("line.pub", line.public_key_pem())
            ))
            .set(&format!(
                "provisioning.ca_certificate={}",
                put("ca.pem", certificate.pem())
            ))
            .set(&format!(
                "provisioning.ca_key={}",
                put("ca.key", authority.serialize_pem())
            ));
        Self {
            cluster: with(setup).start(),
            line,
            _folder: folder,
        }
    }

    fn bootstrap(&self) -> String {
        let claims =
            json!({ "aud": "provisioning", "sub": "line", "iat": now(), "exp": now() + 600 });
        token(&self.line, &claims)
    }

    /// Where a replica is asked over HTTP.
    fn door(&self, replica: usize) -> SocketAddr {
        let log = self.cluster.replicas[replica].log();
        let lines = log.lines().rev();
        let mut told = lines.filter(|line| line.contains("\"message\":\"provisioning\""));
        let line: Value = serde_json::from_str(told.next().expect("it is told")).expect("JSON");
        let at = line.get("address").unwrap_or(&line["fields"]["address"]);
        at.as_str().expect("an address").parse().expect("one")
    }

    /// Somebody who is about to ask.
    fn asker(&self, replica: usize, road: Road) -> Asker {
        let token = self.bootstrap();
        match road {
            Road::Https => Asker::Https(self.door(replica), token),
            Road::Mqtt => {
                let replica = &self.cluster.replicas[replica];
                let connecting = connect(Version::V5, "new")
                    .username("line")
                    .password(token.as_bytes());
                let mut client = connecting.open(replica, false);
                client.subscribe_all(
                    &[(
                        "$provision/response/new",
                        SubscribeOptions::new(QoS::AtMostOnce),
                    )],
                    &[],
                );
                Asker::Mqtt(Box::new(client))
            }
        }
    }

    fn ask(&self, replica: usize, road: Road, request: &Value) -> Answer {
        let answer = self.asker(replica, road).ask(request);
        answer.expect("the replica lives")
    }
}

enum Asker {
    Https(SocketAddr, String),
    Mqtt(Box<Client>),
}

impl Asker {
    /// `None`: the replica was gone before it answered.
    fn ask(&mut self, request: &Value) -> Option<Answer> {
        match self {
            Self::Https(address, token) => post(*address, token, &request.to_string()),
            Self::Mqtt(client) => {
                let mut bytes = Vec::new();
                let publish = Publish {
                    topic: "$provision/request",
                    qos: QoS::AtLeastOnce,
                    packet_id: Some(id(9)),
                    payload: &request.to_string().into_bytes(),
                    ..Publish::default()
                };
                let packet = Packet::Publish(publish);
                packet.encode(Version::V5, &mut bytes).expect("it is short");
                if !client.try_send_bytes(&bytes) {
                    return None;
                }
                loop {
                    let received = client.next()?;
                    match received.packet() {
                        Packet::Publish(publish) => {
                            let body: Value =
                                serde_json::from_slice(publish.payload).expect("JSON");
                            return Some((body["status"].as_u64().unwrap_or(200), body));
                        }
                        Packet::PubAck(ack) => assert_eq!(ack.reason, ReasonCode::SUCCESS),
                        other => panic!("{other:?}"),
                    }
                }
            }
        }
    }
}

fn post(address: SocketAddr, token: &str, body: &str) -> Option<Answer> {
    let mut stream = TcpStream::connect(address).ok()?;
    let limit = Some(Duration::from_secs(20));
    stream.set_read_timeout(limit).ok()?;
    write!(
        stream,
        "POST /v1/provision HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, serde_json::from_str(body).ok()?))
}

/// All at the same moment.
fn all_at_once(askers: Vec<Asker>, requests: &[Value]) -> Vec<Option<Answer>> {
    let start = Barrier::new(askers.len());
    std::thread::scope(|scope| {
        let asks: Vec<_> = askers
            .into_iter()
            .zip(requests)
            .map(|(mut asker, request)| {
                let start = &start;
                scope.spawn(move || {
                    start.wait();
                    asker.ask(request)
                })
            })
            .collect();
        let done = asks.into_iter().map(|ask| ask.join().expect("no panic"));
        done.collect()
    })
}

/// What everybody is told who comes with another key.
fn is_taken(answer: &Answer) -> bool {
    answer.0 == 409 && answer.1["type"] == json!("urn:dunlin:problem:exists")
}

#[test]
fn of_many_keys_that_ask_at_once_on_three_replicas_by_both_roads_one_gets_the_identity() {
    const ROUNDS: usize = 40;
    let plant = Plant::start(|setup| setup);
    let places: Vec<(usize, Road)> = (0..3)
        .flat_map(|replica| ROADS.map(|road| (replica, road)))
        .collect();
    let mut won = [[0; 2]; 3];
    for round in 0..ROUNDS {
        let serial = format!("sn-{round}");
        let keys = [key(), key(), key()];
        // Each key asks at two places, of different replicas and roads.
        let key_at = |place: usize| (place + place / 3 + round) % 3;
        let requests: Vec<Value> = (0..places.len())
            .map(|place| for_certificate(&serial, &keys[key_at(place)]))
            .collect();
        let askers = places
            .iter()
            .map(|(replica, road)| plant.asker(*replica, *road));
        let done = all_at_once(askers.collect(), &requests);
        let done: Vec<Answer> = done.into_iter().map(|it| it.expect("answered")).collect();
        let first = done.iter().position(|(status, _)| *status == 200);
        let first = first.unwrap_or_else(|| panic!("nobody has got it: {done:?}"));
        let (winner, identity) = (key_at(first), &done[first].1);
        for (place, answer) in done.iter().enumerate() {
            match key_at(place) == winner {
                true => assert_eq!(answer, &(200, identity.clone())),
                false => assert!(is_taken(answer), "{answer:?}"),
            }
        }
        for (place, (replica, road)) in places.iter().enumerate() {
            if key_at(place) == winner {
                won[*replica][usize::from(*road == Road::Mqtt)] += 1;
            }
            // Whoever asks later is answered the same everywhere.
            let key = &keys[(winner + usize::from(place % 2 == 1)) % 3];
            let answer = plant.ask(*replica, *road, &for_certificate(&serial, key));
            match place % 2 {
                0 => assert_eq!(answer, (200, identity.clone())),
                _ => assert!(is_taken(&answer), "{answer:?}"),
            }
        }
    }
    println!(
        "{ROUNDS} serial numbers; the winner has asked at (HTTPS, MQTT) of three replicas: {won:?}"
    );
}

#[test]
fn one_request_that_is_repeated_elsewhere_is_refused_there() {
    let plant = Plant::start(|setup| setup);
    let places: Vec<(usize, Road)> = (0..3)
        .flat_map(|replica| ROADS.map(|road| (replica, road)))
        .collect();
    let is_replayed = |answer: &Answer| {
        answer.0 == 409 && answer.1["type"] == json!("urn:dunlin:problem:replayed")
    };
    for round in 0..10 {
        let request = for_key(&format!("sn-{round}"), &key());
        // One after the other.
        if round % 2 == 0 {
            let (replica, road) = places[round % places.len()];
            assert_eq!(plant.ask(replica, road, &request).0, 200);
            for (replica, road) in &places {
                let answer = plant.ask(*replica, *road, &request);
                assert!(is_replayed(&answer), "{answer:?}");
            }
            continue;
        }
        // At once.
        let requests = vec![request; places.len()];
        let askers = places
            .iter()
            .map(|(replica, road)| plant.asker(*replica, *road));
        let done = all_at_once(askers.collect(), &requests);
        let done: Vec<Answer> = done.into_iter().map(|it| it.expect("answered")).collect();
        let given = done.iter().filter(|(status, _)| *status == 200).count();
        let refused = done.iter().filter(|it| is_replayed(it)).count();
        assert_eq!((given, refused), (1, places.len() - 1), "{done:?}");
    }
}

#[test]
fn a_device_connects_to_any_replica_at_once() {
    const ROUNDS: usize = 30;
    let plant = Plant::start(|setup| setup);
    let mut longest = Duration::ZERO;
    for round in 0..ROUNDS {
        let (serial, key) = (format!("sn-{round}"), key());
        let connecting = device(&serial, &key);
        // Every replica has been asked for the device before it was there.
        for replica in &plant.cluster.replicas {
            connecting.refused(replica, ReasonCode::BAD_USER_NAME_OR_PASSWORD);
        }
        let mut asker = plant.asker(round % 3, ROADS[round / 3 % 2]);
        let answer = asker.ask(&for_key(&serial, &key)).expect("answered");
        let begin = Instant::now();
        assert_eq!(answer.0, 200, "{answer:?}");
        for replica in [1, 2, 0] {
            let replica = &plant.cluster.replicas[(round + replica) % 3];
            connecting.accepted(replica).0.drop_connection();
        }
        longest = longest.max(begin.elapsed());
    }
    println!(
        "{ROUNDS} devices were connected to three replicas each within {longest:?} of their identity"
    );
}

#[test]
fn a_replica_that_dies_in_the_middle_leaves_no_identity_or_a_whole_one() {
    const ROUNDS: usize = 4;
    const EACH: usize = 8;
    let mut plant = Plant::start(ClusterSetup::with_faults);
    let (mut given, mut cut_off, mut begun) = (0, 0, 0);
    for round in 0..ROUNDS as u64 {
        // Six round trips to Redis, so that there is a middle.
        plant.cluster.proxies[0].delay(Duration::from_millis(4));
        let serials: Vec<String> = (0..EACH).map(|n| format!("sn-{round}-{n}")).collect();
        let keys: Vec<KeyPair> = serials.iter().map(|_| key()).collect();
        // The first half registers keys, the second is given certificates.
        let wanted = |n: usize, key: &KeyPair| match n < EACH / 2 {
            true => for_key(&serials[n], key),
            false => for_certificate(&serials[n], key),
        };
        let requests: Vec<Value> = (0..EACH).map(|n| wanted(n, &keys[n])).collect();
        let askers: Vec<Asker> = (0..EACH).map(|n| plant.asker(0, ROADS[n % 2])).collect();
        let answers = std::thread::scope(|scope| {
            let asking = scope.spawn(|| all_at_once(askers, &requests));
            std::thread::sleep(Duration::from_millis(20 + 40 * round));
            plant.cluster.replicas[0].kill9();
            asking.join().expect("no panic")
        });
        plant.cluster.proxies[0].delay(Duration::ZERO);
        for (n, answer) in answers.iter().enumerate() {
            let (road, mut key) = (ROADS[n % 2], &keys[n]);
            let other = self::key();
            match answer {
                Some(answer) => {
                    given += 1;
                    assert_eq!(answer.0, 200, "{answer:?}");
                }
                None => cut_off += 1,
            }
            // Whether another key may have it is whether nothing was begun.
            if n % 4 < 2 {
                let answer = plant.ask(1, road, &wanted(n, &other));
                match answer.0 {
                    200 => key = &other,
                    _ => assert!(is_taken(&answer), "{answer:?}"),
                }
                begun += usize::from(answer.0 != 200);
            }
            let there = plant.ask(2, road, &wanted(n, key));
            assert_eq!(there.0, 200, "{there:?}");
            assert_eq!(plant.ask(1, road, &wanted(n, key)), there);
            if let Some(answer) = answer {
                assert_eq!(*answer, there, "what was given stays given");
            }
            if n < EACH / 2 {
                for replica in [1, 2] {
                    device(&serials[n], key).accepted(&plant.cluster.replicas[replica]);
                }
            }
        }
        plant.cluster.start_again(0);
    }
    println!(
        "of {} requests {given} were answered before the replica died, {cut_off} were not; of the half that was tried with another key {begun} were taken",
        ROUNDS * EACH
    );
    assert!(cut_off > 0, "no replica died in the middle");
}

#[test]
fn an_answer_of_redis_that_is_lost_costs_no_identity() {
    let plant = Plant::start(ClusterSetup::with_faults);
    for round in 0..12 {
        let (serial, key) = (format!("sn-{round}"), key());
        let road = ROADS[round % 2];
        let mut asker = plant.asker(0, road);
        plant.cluster.proxies[0].lose_an_answer();
        let answer = asker
            .ask(&for_key(&serial, &key))
            .expect("the replica lives");
        assert!(matches!(answer.0, 200 | 503), "{answer:?}");
        let answer = plant.ask(1, road, &for_key(&serial, &key));
        assert_eq!(answer.0, 200, "{answer:?}");
        let answer = plant.ask(2, road, &for_key(&serial, &self::key()));
        assert!(is_taken(&answer), "{answer:?}");
        for replica in &plant.cluster.replicas[1..] {
            device(&serial, &key).accepted(replica);
        }
    }
}

//! paho-mqtt (Python) and MQTT.js (Node), each by a script of its own in `tests-e2e/`.

use crate::support::{
    broker::free_port,
    certs,
    foreign::{node, python, run},
    *,
};

/// A broker that listens on TCP, WebSocket, TLS and secure WebSocket; the arguments that the scripts take.
fn listening_everywhere() -> (Broker, Vec<String>) {
    let [ws, tls, wss] = [free_port(), free_port(), free_port()];
    let setup = Broker::setup();
    certs::write(setup.dir(), "client");
    let secure = "tls = { certificate = \"{dir}/server.pem\", key = \"{dir}/server.key\" }\n";
    let broker = setup
        .config(&format!(
            "[[listener]]\naddress = \"127.0.0.1:{{port}}\"\n\n\
             [[listener]]\naddress = \"127.0.0.1:{ws}\"\ntype = \"ws\"\n\n\
             [[listener]]\naddress = \"127.0.0.1:{tls}\"\ntype = \"tls\"\n{secure}\n\
             [[listener]]\naddress = \"127.0.0.1:{wss}\"\ntype = \"wss\"\n{secure}\n\
             [store]\npath = \"{{dir}}/store\"\n"
        ))
        .start();
    let authority = broker.dir().join("ca.pem").display().to_string();
    let ports = [broker.port(), ws, tls, wss].map(|port| port.to_string());
    (broker, ports.into_iter().chain([authority]).collect())
}

#[test]
fn paho_mqtt_over_every_transport_and_version() {
    let (_broker, arguments) = listening_everywhere();
    let outcome = run(python("paho_check.py").args(arguments)).success();
    assert_eq!(
        outcome.lines().last(),
        Some(&"8 combinations passed"),
        "{outcome:#?}"
    );
}

#[test]
fn mqtt_js_over_every_transport_and_version() {
    let (_broker, arguments) = listening_everywhere();
    let outcome = run(node("mqttjs_check.mjs").args(arguments)).success();
    assert_eq!(
        outcome.lines().last(),
        Some(&"8 combinations passed"),
        "{outcome:#?}"
    );
}

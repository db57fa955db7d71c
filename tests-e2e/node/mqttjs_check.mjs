// Drives a broker with MQTT.js: every transport, 3.1.1 and 5.0, every QoS, retained messages, wills, a session.
//
// usage: node mqttjs_check.mjs TCP_PORT WS_PORT TLS_PORT WSS_PORT CA_FILE

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import mqtt from "mqtt";

const LIMIT = 30_000;
const [tcp, ws, tls, wss, caFile] = process.argv.slice(2);
const ca = readFileSync(caFile);

/** Fails after the limit, so that a lost message ends the run. */
function limited(promise, what) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not within ${LIMIT} ms: ${what}`)), LIMIT);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

class Peer {
  constructor(client, connack) {
    this.client = client;
    this.sessionPresent = connack.sessionPresent;
    this.waiting = [];
    this.arrived = [];
    client.on("message", (topic, payload, packet) => {
      const next = this.waiting.shift();
      if (next) next(packet);
      else this.arrived.push(packet);
    });
  }

  static async open(url, options) {
    const client = mqtt.connect(url, { reconnectPeriod: 0, ca, clean: true, ...options });
    const peer = new Promise((resolve, reject) => {
      // In the same turn as CONNACK, so that no message that follows it is missed.
      client.once("connect", (connack) => resolve(new Peer(client, connack)));
      client.once("error", reject);
    });
    return limited(peer, `a connection to ${url}`);
  }

  async subscribe(topic, qos) {
    const granted = await limited(this.client.subscribeAsync(topic, { qos }), `SUBACK for ${topic}`);
    assert.deepEqual(granted.map((g) => g.qos), [qos]);
  }

  publish(topic, payload, options) {
    return limited(this.client.publishAsync(topic, payload, options), `the answer to ${topic}`);
  }

  async message(topic, payload) {
    const packet = await limited(
      new Promise((resolve) => {
        const packet = this.arrived.shift();
        if (packet) resolve(packet);
        else this.waiting.push(resolve);
      }),
      `a message on ${topic}`,
    );
    assert.equal(packet.topic, topic);
    assert.ok(Buffer.from(payload).equals(packet.payload), `payload on ${topic}`);
    return packet;
  }

  leave() {
    return limited(this.client.endAsync(), "the end of a connection");
  }

  /** Breaks the connection as a crash would, without a DISCONNECT. */
  vanish() {
    this.client.stream.destroy();
  }
}

async function check(name, url, protocolVersion) {
  const v5 = protocolVersion === 5;
  const open = (role, options = {}) => Peer.open(url, { clientId: `js-${name}-${role}`, protocolVersion, ...options });
  const topic = `js/${name}`;
  const subscriber = await open("sub");
  const publisher = await open("pub");
  for (const qos of [0, 1, 2]) {
    await subscriber.subscribe(`${topic}/${qos}`, qos);
    await publisher.publish(`${topic}/${qos}`, `qos ${qos}`, { qos });
    const packet = await subscriber.message(`${topic}/${qos}`, `qos ${qos}`);
    assert.equal(packet.qos, qos);
  }
  const large = Buffer.alloc(256_000, "large");
  await publisher.publish(`${topic}/2`, large, { qos: 2 });
  await subscriber.message(`${topic}/2`, large);

  await publisher.publish(`${topic}/kept`, "retained", { qos: 1, retain: true });
  await subscriber.subscribe(`${topic}/kept`, 1);
  assert.equal((await subscriber.message(`${topic}/kept`, "retained")).retain, true);

  if (v5) {
    const properties = { userProperties: { b: "1", a: "2" }, contentType: "text/plain", correlationData: Buffer.from([0, 255]) };
    await publisher.publish(`${topic}/1`, "rich", { qos: 1, properties });
    const packet = await subscriber.message(`${topic}/1`, "rich");
    assert.equal(packet.properties.contentType, "text/plain");
    assert.equal(packet.properties.userProperties.b, "1");
    assert.deepEqual([...packet.properties.correlationData], [0, 255]);
  }

  await subscriber.subscribe(`${topic}/will`, 1);
  const mortal = await open("mortal", { will: { topic: `${topic}/will`, payload: Buffer.from("gone"), qos: 1, retain: false } });
  mortal.vanish();
  await subscriber.message(`${topic}/will`, "gone");

  const lasting = { clean: false, ...(v5 && { properties: { sessionExpiryInterval: 600 } }) };
  const sleeper = await open("sleeper", lasting);
  assert.equal(sleeper.sessionPresent, false);
  await sleeper.subscribe(`${topic}/later`, 2);
  await sleeper.leave();
  await publisher.publish(`${topic}/later`, "while asleep", { qos: 2 });
  const awake = await open("sleeper", lasting);
  assert.equal(awake.sessionPresent, true);
  await awake.message(`${topic}/later`, "while asleep");
  for (const peer of [awake, subscriber, publisher]) await peer.leave();
}

let passed = 0;
for (const [label, url] of [
  ["tcp", `mqtt://localhost:${tcp}`],
  ["ws", `ws://localhost:${ws}/mqtt`],
  ["tls", `mqtts://localhost:${tls}`],
  ["wss", `wss://localhost:${wss}/mqtt`],
]) {
  for (const version of [4, 5]) {
    await check(`${label}-${version}`, url, version);
    console.log(`${label} ${version} passed`);
    passed += 1;
  }
}
console.log(`${passed} combinations passed`);
process.exit(0);

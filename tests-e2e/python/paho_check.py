"""Drives a broker with paho-mqtt: every transport, 3.1.1 and 5.0, every QoS, retained messages, wills, a session.

usage: paho_check.py TCP_PORT WS_PORT TLS_PORT WSS_PORT CA_FILE
"""

import queue
import ssl
import sys

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

LIMIT = 30


class Peer:
    """One client; what happens to it is queued, and a test waits for it."""

    def __init__(self, name, port, transport, ca, version, clean=True, will=None):
        self.version = version
        self.events = queue.Queue()
        self.messages = queue.Queue()
        options = {} if version == mqtt.MQTTv5 else {"clean_session": clean}
        self.client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2, name, protocol=version, transport=transport, **options
        )
        if ca:
            self.client.tls_set(ca, cert_reqs=ssl.CERT_REQUIRED)
        if transport == "websockets":
            self.client.ws_set_options(path="/mqtt")
        self.client.on_connect = lambda c, u, flags, reason, p: self.events.put(
            ("connect", str(reason), flags.session_present)
        )
        self.client.on_subscribe = lambda c, u, mid, codes, p: self.events.put(
            ("subscribe", [code.value for code in codes])
        )
        self.client.on_publish = lambda c, u, mid, reason, p: self.events.put(("publish", mid))
        self.client.on_message = lambda c, u, message: self.messages.put(message)
        if will:
            self.client.will_set(*will)
        extra = {}
        if version == mqtt.MQTTv5:
            properties = Properties(PacketTypes.CONNECT)
            properties.SessionExpiryInterval = 0 if clean else 600
            extra = {"clean_start": clean, "properties": properties}
        self.client.connect("localhost", port, keepalive=60, **extra)
        self.client.loop_start()
        kind, reason, self.session_present = self.event()
        assert (kind, reason) == ("connect", "Success"), (kind, reason)

    def event(self):
        return self.events.get(timeout=LIMIT)

    def subscribe(self, topic, qos):
        if self.version == mqtt.MQTTv5:
            self.client.subscribe(topic, options=SubscribeOptions(qos=qos))
        else:
            self.client.subscribe(topic, qos)
        assert self.event() == ("subscribe", [qos])

    def publish(self, topic, payload, qos, retain=False, properties=None):
        info = self.client.publish(topic, payload, qos, retain, properties)
        assert self.event() == ("publish", info.mid)

    def message(self, topic, payload):
        got = self.messages.get(timeout=LIMIT)
        assert (got.topic, got.payload) == (topic, payload), (got.topic, got.payload)
        return got

    def leave(self):
        self.client.disconnect()
        self.client.loop_stop()

    def vanish(self):
        """Breaks the connection as a crash would, without a DISCONNECT."""
        self.client.loop_stop()
        # The thread has ended: nobody is left who would connect again or say goodbye.
        self.client._sock_close()


def check(name, port, transport, ca, version):
    def peer(role, **options):
        return Peer(f"{name}-{role}", port, transport, ca, version, **options)

    topic = f"paho/{name}"
    subscriber, publisher = peer("sub"), peer("pub")
    for qos in (0, 1, 2):
        subscriber.subscribe(f"{topic}/{qos}", qos)
        publisher.publish(f"{topic}/{qos}", f"qos {qos}".encode(), qos)
        assert subscriber.message(f"{topic}/{qos}", f"qos {qos}".encode()).qos == qos
    large = bytes(range(256)) * 1000
    publisher.publish(f"{topic}/2", large, 2)
    subscriber.message(f"{topic}/2", large)

    publisher.publish(f"{topic}/kept", b"retained", 1, retain=True)
    subscriber.subscribe(f"{topic}/kept", 1)
    assert subscriber.message(f"{topic}/kept", b"retained").retain

    if version == mqtt.MQTTv5:
        properties = Properties(PacketTypes.PUBLISH)
        properties.UserProperty = [("b", "1"), ("a", "2")]
        properties.ContentType = "text/plain"
        properties.CorrelationData = b"\x00\xff"
        publisher.publish(f"{topic}/1", b"rich", 1, properties=properties)
        got = subscriber.message(f"{topic}/1", b"rich").properties
        assert got.UserProperty == [("b", "1"), ("a", "2")], got
        assert (got.ContentType, got.CorrelationData) == ("text/plain", b"\x00\xff"), got

    subscriber.subscribe(f"{topic}/will", 1)
    peer("mortal", will=(f"{topic}/will", b"gone", 1, False)).vanish()
    subscriber.message(f"{topic}/will", b"gone")

    sleeper = peer("sleeper", clean=False)
    assert not sleeper.session_present
    sleeper.subscribe(f"{topic}/later", 2)
    sleeper.leave()
    publisher.publish(f"{topic}/later", b"while asleep", 2)
    sleeper = peer("sleeper", clean=False)
    assert sleeper.session_present
    sleeper.message(f"{topic}/later", b"while asleep")
    for one in (sleeper, subscriber, publisher):
        one.leave()


def main():
    tcp, ws, tls, wss = (int(port) for port in sys.argv[1:5])
    ca = sys.argv[5]
    passed = 0
    for label, port, transport, authority in (
        ("tcp", tcp, "tcp", None),
        ("ws", ws, "websockets", None),
        ("tls", tls, "tcp", ca),
        ("wss", wss, "websockets", ca),
    ):
        for version, digits in ((mqtt.MQTTv311, "311"), (mqtt.MQTTv5, "5")):
            check(f"{label}-{digits}", port, transport, authority, version)
            print(f"{label} {digits} passed", flush=True)
            passed += 1
    print(f"{passed} combinations passed")


main()

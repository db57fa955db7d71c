"""A device as the tutorials for Google's IoT Core had it: an ES256 key, a JWT as the password, the topics /devices/ID/…

Nothing of it knows of this broker but the host, the port and the CA file.

usage: iot_core_check.py HOST PORT CA_FILE PROJECT LOCATION REGISTRY DEVICE PRIVATE_KEY_FILE
"""

import datetime
import json
import queue
import ssl
import sys

import jwt
import paho.mqtt.client as mqtt

LIMIT = 60


def create_jwt(project_id, private_key_file, algorithm):
    """The token: who it is for, since when, until when."""
    now = datetime.datetime.now(tz=datetime.timezone.utc)
    token = {"iat": now, "exp": now + datetime.timedelta(minutes=20), "aud": project_id}
    with open(private_key_file) as file:
        return jwt.encode(token, file.read(), algorithm=algorithm)


def main(host, port, ca, project, location, registry, device, private_key):
    client_id = f"projects/{project}/locations/{location}/registries/{registry}/devices/{device}"
    connected, messages, published, granted = (queue.Queue() for _ in range(4))
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id, protocol=mqtt.MQTTv311)
    # The user name is ignored, but must not be empty.
    client.username_pw_set(username="unused", password=create_jwt(project, private_key, "ES256"))
    client.tls_set(ca_certs=ca, tls_version=ssl.PROTOCOL_TLS_CLIENT)
    client.on_connect = lambda c, u, flags, reason, p: connected.put(str(reason))
    client.on_message = lambda c, u, message: messages.put(message)
    client.on_publish = lambda c, u, mid, reason, p: published.put(mid)
    client.on_subscribe = lambda c, u, mid, codes, p: granted.put([code.value for code in codes])
    client.connect(host, int(port))
    client.loop_start()

    reason = connected.get(timeout=LIMIT)
    assert reason == "Success", reason
    print("connected", flush=True)

    client.subscribe(f"/devices/{device}/config", qos=1)
    assert granted.get(timeout=LIMIT) == [1]
    config = messages.get(timeout=LIMIT)
    assert config.topic == f"/devices/{device}/config", config.topic
    interval = json.loads(config.payload)["interval"]
    print("config", interval, flush=True)

    client.subscribe(f"/devices/{device}/commands/#", qos=0)
    assert granted.get(timeout=LIMIT) == [0]
    client.publish(f"/devices/{device}/state", json.dumps({"interval": interval}), qos=1)
    published.get(timeout=LIMIT)
    for n in range(3):
        # What a payload says of its device is not what the row says.
        body = json.dumps({"n": n, "device_id": "somebody-else"})
        client.publish(f"/devices/{device}/events", body, qos=1)
        published.get(timeout=LIMIT)
    print("published", flush=True)

    # Another device's topics are closed to it.
    client.subscribe("/devices/other/config", qos=1)
    assert granted.get(timeout=LIMIT) == [0x80]

    command = messages.get(timeout=LIMIT)
    assert command.topic.startswith(f"/devices/{device}/commands"), command.topic
    print("command", command.payload.decode(), flush=True)
    client.disconnect()
    client.loop_stop()


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Runs every case of the Eclipse Paho interoperability suites in a process of its own, with a limit.

usage: paho_suite.py CHECKOUT PORT BROKER_PID

Some loops of the suites never end when a broker errs, hence the processes. Their client waits half a second for an answer;
on a busy machine that fails now and then for no fault of the broker, so its waits are lengthened from outside. The case
`will_message_test` is run too, although unittest does not collect it for its name.

PAHO_CASES: only cases whose name has this in it. PAHO_SUBSCRIBE_PAUSE: seconds after each SUBSCRIBE. Some cases publish with
one client before the SUBACK of the other has come (they wait for the wrong one); one process happens to be quick enough for
that, several promise it from the SUBACK on.
"""

import os
import re
import socket
import subprocess
import sys
import time

LIMIT_SECONDS = 120
PATIENCE = 8

CASE = """
import importlib, os, socket, sys, time, unittest
root, module, port, case, patience = sys.argv[1:]
settimeout = socket.socket.settimeout
socket.socket.settimeout = lambda self, seconds: settimeout(self, seconds * float(patience) if seconds else seconds)
sys.path.insert(0, os.path.join(root, "interoperability"))
sys.argv = [module]
suite = importlib.import_module(module)
suite.host, suite.port = "127.0.0.1", int(port)
suite.topics = ("TopicA", "TopicA/B", "Topic/C", "TopicA/C", "/TopicA")
suite.wildtopics = ("TopicA/+", "+/C", "#", "/#", "/+", "+/+", "TopicA/#")
suite.nosubscribe_topics = ("test/nosubscribe",)
suite.topic_prefix = "client_test5/"
pause = float(os.environ.get("PAHO_SUBSCRIBE_PAUSE", "0"))
client = suite.mqtt_client.Client
if pause:
    subscribe = client.subscribe
    client.subscribe = lambda *args, **named: (subscribe(*args, **named), time.sleep(pause))[0]
result = unittest.TextTestRunner(stream=sys.stdout, verbosity=2).run(unittest.TestSuite([suite.Test(case)]))
sys.stdout.flush()
# Threads of the suite's clients may still wait for something.
os._exit(0 if result.wasSuccessful() and result.testsRun == 1 else 1)
"""


def wait_for(port, pid):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if not os.path.exists(f"/proc/{pid}/fd"):
            sys.exit("paho: the broker ended at once")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    sys.exit(f"paho: nothing listens on port {port}")


def cases(checkout, module):
    with open(os.path.join(checkout, "interoperability", module + ".py"), encoding="utf-8") as file:
        names = re.findall(r"^    def (test\w*|will_message_test)\(self", file.read(), re.MULTILINE)
    return [name for name in names if os.environ.get("PAHO_CASES", "") in name]


def run(checkout, module, port, case):
    command = [sys.executable, "-c", CASE, checkout, module, str(port), case, str(PATIENCE)]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return False, f"did not end within {LIMIT_SECONDS} s"
    lines = (ended.stdout + ended.stderr).strip().splitlines()
    return ended.returncode == 0, "\n".join(lines[-15:])


def main():
    checkout, port, pid = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    wait_for(port, pid)
    failed = 0
    for version, module in (("3.1.1", "client_test"), ("5.0", "client_test5")):
        names = cases(checkout, module)
        passed = 0
        for name in names:
            begun = time.monotonic()
            good, output = run(checkout, module, port, name)
            passed += good
            print(f"{'pass' if good else 'FAIL'}  {version:6} {name} ({time.monotonic() - begun:.1f} s)", flush=True)
            if not good:
                print("      " + output.replace("\n", "\n      "), flush=True)
        failed += len(names) - passed
        print(f"MQTT {version}: {passed} of {len(names)} cases pass", flush=True)
    sys.exit(1 if failed else 0)


main()

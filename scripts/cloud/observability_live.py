"""observability_live.py BIN: a cluster of two replicas, Redis and the adapter with a little traffic, scraped by Prometheus.

- What is scraped is what docs/metrics.md says: names, types, labels.
- Every expression of the dashboards gives something; but those of events that have not happened (an open label nobody has had yet).
- A publish that its publisher has sampled is traced through broker and adapter, by OTLP; its context reaches the subscriber as it was.
- Every rule can be evaluated, and no alert fires in a cluster that is well.
"""

import json
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request

import promql_parser as promql
import yaml

from observability_traces import SAMPLED, TOPIC, UNSAMPLED, Collector, problems as trace_problems, traceparent
from observability_static import TARGET_LABELS, VARIABLES, Catalogue, expressions, selectors

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(sys.argv[1]).resolve()
LIMIT = 60.0
SCRAPES = 8
# A week ago there was no cluster.
WEEK = " offset 1w"


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [made.getsockname()[1] for made in sockets]
    for made in sockets:
        made.close()
    return ports


def get(url):
    # No proxy is between here and here.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=5) as answer:
        return answer.read().decode()


def wait_for(what, condition):
    end = time.monotonic() + LIMIT
    last = None
    while time.monotonic() < end:
        try:
            got = condition()
            if got:
                return got
        except OSError as error:
            last = error
        time.sleep(0.1)
    raise SystemExit(f"observability: waited {LIMIT:.0f} s for {what} ({last})")


class Cluster:
    """The processes; ended with the context."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.processes = []
        self.collector = Collector()
        names = ["redis", "mqtt1", "mqtt2", "ops1", "ops2", "adapter", "prometheus"]
        self.ports = dict(zip(names, free_ports(len(names)), strict=True))

    def start(self, name, *command, stdin=None):
        log = (self.folder / f"{name}.log").open("wb")
        process = subprocess.Popen([str(part) for part in command], stdout=log, stderr=log, stdin=stdin, cwd=self.folder)
        self.processes.append(process)
        return process

    def __enter__(self):
        ports = self.ports
        redis = f"redis://127.0.0.1:{ports['redis']}"
        self.start("redis", "redis-server", "--port", ports["redis"], "--save", "", "--appendonly", "no", "--maxmemory", "256mb", "--maxmemory-policy", "noeviction")
        for n in "12":
            listen = ["--listen", f"127.0.0.1:{ports['mqtt' + n]}", "--set", f"ops.listen=127.0.0.1:{ports['ops' + n]}"]
            trace = ["--set", f"trace.endpoint={self.collector.endpoint}"]
            self.start(f"broker{n}", BIN / "broker", "--redis", redis, *listen, *trace)
        tap = ["--source", "tap", "--redis", redis, "--warehouse", self.folder / "warehouse", "--set", f"trace.endpoint={self.collector.endpoint}"]
        self.start("adapter", BIN / "bigquery-adapter", *tap, "--ops-listen", f"127.0.0.1:{ports['adapter']}")
        self.start_prometheus()
        for name in ("ops1", "ops2", "adapter"):
            wait_for(f"{name} to be ready", lambda name=name: get(f"http://127.0.0.1:{ports[name]}/health/ready"))
        wait_for("Prometheus", lambda: get(f"http://127.0.0.1:{ports['prometheus']}/-/ready"))
        return self

    def start_prometheus(self):
        ports = self.ports
        target = lambda *names: [{"targets": [f"127.0.0.1:{ports[name]}" for name in names]}]
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(ROOT / "observability/alerts.yaml")],
            "scrape_configs": [
                {"job_name": "broker", "static_configs": target("ops1", "ops2")},
                {"job_name": "adapter", "static_configs": target("adapter")},
            ],
        }
        (self.folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        options = ["--config.file=prometheus.yml", "--storage.tsdb.path=tsdb", f"--web.listen-address=127.0.0.1:{ports['prometheus']}"]
        self.start("prometheus", "prometheus", *options)

    def __exit__(self, *_):
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
        self.collector.close()

    def traffic(self):
        """A persistent subscriber on one replica, publishers of every QoS on the other, and a client that is refused."""
        one, two = (["-h", "127.0.0.1", "-p", str(self.ports[name])] for name in ("mqtt1", "mqtt2"))
        self.start("subscriber", "mosquitto_sub", *two, "-i", "reader", "-c", "-q", "2", "-t", "fleet/#", "-V", "5", "-x", "600", "-F", "%t %P")
        for qos in "012":
            publisher = self.start(f"publisher{qos}", "mosquitto_pub", *one, "-q", qos, "-t", f"fleet/{qos}", "-l", stdin=subprocess.PIPE)
            yield publisher
        with socket.create_connection(("127.0.0.1", self.ports["mqtt1"])) as wrong:
            wrong.sendall(b"GET / HTTP/1.1\r\n\r\n")
            wrong.recv(100)

    def publish_traced(self):
        """One publish that is sampled, one that is not."""
        for trace in (UNSAMPLED, SAMPLED):
            context = ["-D", "publish", "user-property", "traceparent", traceparent(trace), "-D", "publish", "user-property", "tracestate", "vendor=1"]
            where = ["-h", "127.0.0.1", "-p", str(self.ports["mqtt1"]), "-V", "5", "-q", "1", "-t", TOPIC, "-m", "x"]
            subprocess.run(["mosquitto_pub", *where, *context], check=True, timeout=LIMIT)

    def traces(self):
        """What is wrong with the traces."""
        wait_for("six spans", lambda: self.collector.count() >= 6)
        yield from trace_problems(list(self.collector.spans))
        for trace in (UNSAMPLED, SAMPLED):
            wanted = f"{TOPIC} traceparent:{traceparent(trace)} tracestate:vendor=1"
            lines = wait_for("the subscriber", lambda: (self.folder / "subscriber.log").read_text().splitlines())
            if wanted not in lines:
                yield f"the subscriber has not got the context as it was: {[line for line in lines if line.startswith(TOPIC)]}"

    def query(self, expression):
        url = f"http://127.0.0.1:{self.ports['prometheus']}/api/v1/query?" + urllib.parse.urlencode({"query": expression})
        return json.loads(get(url))["data"]["result"]

    def rules(self):
        groups = json.loads(get(f"http://127.0.0.1:{self.ports['prometheus']}/api/v1/rules"))["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]


def scraped(text):
    """Names of samples with their labels, and types of families."""
    samples, types = {}, {}
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            types[name] = kind
        elif line and not line.startswith("#"):
            name, _, rest = line.partition("{")
            name = name.split(" ")[0]
            labels = set(re.findall(r'(\w+)="', rest.split("}")[0])) if rest else set()
            samples.setdefault(name, set()).update(labels)
    return samples, types


def compare(catalogue, part, text):
    samples, _ = scraped(text)
    for name, labels in samples.items():
        metric = catalogue.metrics.get(name)
        if metric is None or part not in metric["parts"]:
            yield f"{part} shows {name}, and docs/metrics.md does not know it"
        elif labels != set(metric["labels"]):
            yield f"{part} shows {name} with the labels {sorted(labels)}, and docs/metrics.md says {sorted(metric['labels'])}"
    for name, metric in catalogue.metrics.items():
        is_open = any(values is None for values in metric["labels"].values())
        if part in metric["parts"] and name not in samples and not is_open:
            yield f"docs/metrics.md has {name}, and {part} does not show it"


def main():
    catalogue = Catalogue(ROOT)
    problems, events = [], []
    with tempfile.TemporaryDirectory() as folder, Cluster(folder) as cluster:
        publishers = list(cluster.traffic())
        # Enough scrapes for a rate, with messages between them; the last ones after a row was stored.
        begun = time.monotonic()
        enough = f"min(count_over_time(up[1m])) > {SCRAPES} and min_over_time(sum(dunlin_adapter_committed_rows_total)[3s:1s]) > 0"
        while not cluster.query(enough):
            for publisher in publishers:
                publisher.stdin.write(b'{"t": 1}\n')
                publisher.stdin.flush()
            time.sleep(0.1)
            if time.monotonic() - begun > LIMIT:
                raise SystemExit("observability: no row is stored, or nothing is scraped: nothing is known of the dashboards")
        cluster.publish_traced()
        problems += cluster.traces()
        for part, port in (("broker", "ops1"), ("broker", "ops2"), ("adapter", "adapter")):
            problems += compare(catalogue, part, get(f"http://127.0.0.1:{cluster.ports[port]}/metrics"))
        there = set(json.loads(get(f"http://127.0.0.1:{cluster.ports['prometheus']}/api/v1/label/__name__/values"))["data"])
        asked = 0
        for place, text in expressions(ROOT):
            for variable, value in VARIABLES.items():
                text = text.replace(variable, "10s" if value == "1m" else value)
            text = text.replace(WEEK, "")
            asked += 1
            if cluster.query(text):
                continue
            names = {selector.name for selector in selectors(promql.parse(text))}
            if names <= there:
                problems.append(f"{place}: nothing comes of {text}")
            else:
                events.append(sorted(names - there))
        if len(events) > asked // 5:
            problems.append(f"{len(events)} of {asked} expressions are of events that have not happened: {events}")
        for rule in cluster.rules():
            if rule["health"] != "ok":
                problems.append(f"alert {rule['name']}: {rule['health']} {rule.get('lastError', '')}")
            elif rule["state"] == "firing":
                problems.append(f"alert {rule['name']} fires in a cluster that is well")
        for name in ("broker1", "broker2", "adapter"):
            for line in (cluster.folder / f"{name}.log").read_text().splitlines():
                if '"level":"ERROR"' in line:
                    problems.append(f"{name} logs an error: {line}")
    for problem in problems:
        print(problem)
    if problems:
        raise SystemExit(f"observability: {len(problems)} problems in a cluster that runs")
    print(f"observability: {asked} expressions give figures of a cluster that runs ({len(events)} are of events that have not happened), no alert fires, a trace is whole")


if __name__ == "__main__":
    main()

"""Whether compose.yaml holds together. `check` reads it with the files that it mounts; `rehearse` starts the same services without Docker: each container is a
network namespace with the same name, addresses on the same networks, the same command and mounted files, and a name server in the place of Docker's. Images are
the programs of this machine, so neither images nor Grafana are tried. A message goes in at the balancer, and must come out as a row.
"""

import argparse
import contextlib
import ctypes
import os
import pathlib
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from collections.abc import Callable, Iterator

import yaml
from compose_spec import PyCompose

problems: list[str] = []


def problem(of: str, text: str) -> None:
    problems.append(f"compose.yaml: {of}: {text}")


def seconds(text: str) -> float:
    return float(text.rstrip("s"))


# -- what is written

def check(root: pathlib.Path) -> None:
    text = (root / "compose.yaml").read_text()
    try:
        # That library takes a tag or a digest; Docker takes both.
        PyCompose.from_yaml(re.sub(r"(image: [^\s:@]+):[^\s@]+@", r"\1@", text)).validate()
    except Exception as error:  # noqa: BLE001: whatever it says is what is wrong
        problem("the specification", str(error))
        return
    compose = yaml.safe_load(text)
    services = compose["services"]
    version = tomllib.loads((root / "Cargo.toml").read_text())["workspace"]["package"]["version"]
    targets = set(re.findall(r"^FROM \S+ AS (\S+)$", (root / "Dockerfile.alpine").read_text(), re.MULTILINE))
    for name, service in services.items():
        image(root, name, service, version, targets)
        confinement(name, service)
        for port in service.get("ports", []):
            if not str(port).startswith("127.0.0.1:"):
                problem(name, f"the port {port} is open to other machines: 127.0.0.1:... keeps it here")
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith(".") and not (root / source).exists():
                problem(name, f"mounts {source}, which is not there")
            elif source.startswith(".") and not volume.endswith(":ro"):
                problem(name, f"may write to {source}")
        for other, how in (service.get("depends_on") or {}).items() if isinstance(service.get("depends_on"), dict) else []:
            if how["condition"] == "service_healthy" and "healthcheck" not in services[other]:
                problem(name, f"waits for {other} to be healthy, which nobody checks")
    if set(services.get("redis", {}).get("networks", [])) != {"inside"} or services["redis"].get("ports"):
        problem("redis", "must be on the network inside only, without a port")
    if compose["networks"]["inside"] != {"internal": True}:
        problem("networks", "inside must have no way out")
    agreement(root, services)


def image(root: pathlib.Path, name: str, service: dict, version: str, targets: set[str]) -> None:
    of = service.get("image", "")
    if "build" in service:
        target = service["build"].get("target")
        if target not in targets:
            problem(name, f"Dockerfile.alpine has no target {target}")
        if of != f"dunlin/{target}:{version}":
            problem(name, f"image {of}: must be dunlin/{target}:{version}, the version of the workspace")
    elif not re.fullmatch(r"[a-z0-9./_-]+:[A-Za-z0-9_.-]*[0-9][A-Za-z0-9_.-]*@sha256:[0-9a-f]{64}", of):
        problem(name, f"image {of}: needs a tag that says its version, and a digest")


def confinement(name: str, service: dict) -> None:
    if service.get("read_only") is not True:
        problem(name, "read_only must be true")
    if service.get("cap_drop") != ["ALL"] or service.get("cap_add") or service.get("privileged"):
        problem(name, "every capability must be dropped")
    if "no-new-privileges:true" not in service.get("security_opt", []):
        problem(name, "security_opt must have no-new-privileges:true")


def agreement(root: pathlib.Path, services: dict) -> None:
    """The balancer, Prometheus and the brokers' configuration mean the same ports, and a replica has the time that it wants to leave."""
    config = tomllib.loads((root / "deploy/compose/broker/dunlin.toml").read_text())
    listening = {listener["address"].rpartition(":")[2] for listener in config["listener"]}
    balancer = (root / "deploy/compose/haproxy/haproxy.cfg").read_text()
    dealt = set(re.findall(r"server-template \S+ \S+ broker:([0-9]+)", balancer))
    if dealt != listening:
        problem("balancer", f"haproxy.cfg deals to the ports {sorted(dealt)} of brokers, which listen on {sorted(listening)}")
    if any(listener.get("proxy_protocol") != "v2" for listener in config["listener"]) or "send-proxy-v2" not in balancer:
        problem("balancer", "haproxy.cfg and dunlin.toml must both have version 2 of the PROXY protocol")
    ops = config["ops"]["listen"].rpartition(":")[2]
    if f"check port {ops} " not in balancer:
        problem("balancer", f"haproxy.cfg does not ask for health on the port {ops}")
    for bound in re.findall(r"bind :([0-9]+)", balancer):
        if f"127.0.0.1:{bound}:{bound}" not in services["balancer"]["ports"]:
            problem("balancer", f"its port {bound} is not published")
    for job in yaml.safe_load((root / "deploy/compose/prometheus/prometheus.yml").read_text())["scrape_configs"]:
        for found in job.get("dns_sd_configs", []):
            for name in found["names"]:
                if name not in services:
                    problem("prometheus", f"scrapes {name}, which is no service")
                file = {"broker": "broker/dunlin.toml", "adapter": "adapter/adapter.toml"}.get(name)
                if file and str(found["port"]) != tomllib.loads((root / "deploy/compose" / file).read_text())["ops"]["listen"].rpartition(":")[2]:
                    problem("prometheus", f"scrapes the port {found['port']} of {name}, which listens elsewhere")
    for asks, asked in (("balancer", "broker"), ("prometheus", "broker"), ("prometheus", "adapter"), ("broker", "redis"), ("adapter", "redis")):
        shared = set(services[asks]["networks"]) & set(services[asked]["networks"])
        if len(shared) != 1:
            problem(asks, f"shares {len(shared)} networks with {asked}: a name has an address in each, and must have one")
    command = services["redis"]["command"]
    holds = int(command[command.index("--maxmemory") + 1].removesuffix("mb")) * 2**20
    tap = tomllib.loads((root / "deploy/compose/adapter/adapter.toml").read_text())["tap"]
    if tap.get("partitions", 4) * tap["max_bytes"] > 0.6 * holds:
        problem("adapter", f"the tap may take more than six tenths of what Redis holds, {holds}: a full Redis stops everybody")
    leaving = (config.get("drain_delay_ms", 0) + config["drain_timeout_ms"]) / 1000 + 5
    if seconds(services["broker"].get("stop_grace_period", "10s")) < leaving:
        problem("broker", f"stop_grace_period is less than the {leaving:g} seconds that a replica takes to leave")


# -- what happens

PROGRAMS = {"redis": "redis-server", "broker": "broker", "adapter": "bigquery-adapter", "balancer": "haproxy", "prometheus": "prometheus"}


class NameServer:
    """Answers like Docker's: the addresses of a service's containers, in turn. One for each container, in its network."""

    def __init__(self, addresses: Callable[[str], list[str]]):
        self.addresses = addresses

    def serve(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                asked, whom = sock.recvfrom(512)
                answer = self.answer(asked)
                if answer:
                    sock.sendto(answer, whom)

    def answer(self, asked: bytes) -> bytes:
        labels, at = [], 12
        while asked[at]:
            labels.append(asked[at + 1 : at + 1 + asked[at]].decode())
            at += 1 + asked[at]
        kind = struct.unpack(">H", asked[at + 1 : at + 3])[0]
        found = self.addresses(".".join(labels)) if kind == 1 else []
        known = bool(self.addresses(".".join(labels)))
        head = asked[:2] + struct.pack(">HHHHH", 0x8180 if known else 0x8183, 1, len(found), 0, 0)
        records = b"".join(b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 1, 4) + socket.inet_aton(address) for address in found)
        return head + asked[12 : at + 5] + records


class Rehearsal:
    def __init__(self, root: pathlib.Path, binaries: pathlib.Path, work: pathlib.Path):
        self.root, self.binaries, self.work = root, binaries, work
        self.services = yaml.safe_load((root / "compose.yaml").read_text())["services"]
        self.prefix = f"dunlin{os.getpid()}"
        self.containers: dict[str, dict] = {}
        self.bridges: dict[str, str] = {}
        self.processes: dict[str, subprocess.Popen] = {}

    def ip(self, *arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True)

    def inside(self, name: str, *command: str) -> list[str]:
        return ["ip", "netns", "exec", self.containers[name]["space"], *command]

    def prepare(self) -> None:
        """Bridges for the networks, in a namespace of their own, and a namespace for each container."""
        self.hub = f"{self.prefix}hub"
        self.ip("netns", "add", self.hub)
        for number, network in enumerate(["edge", "inside"]):
            self.bridges[network] = f"10.213.{number}"
            self.ip("-n", self.hub, "link", "add", f"br-{network}", "type", "bridge")
            self.ip("-n", self.hub, "link", "set", "dev", f"br-{network}", "up")
        last = 1
        for service in PROGRAMS:
            for number in range(self.services[service].get("deploy", {}).get("replicas", 1)):
                name, last = f"{service}-{number + 1}", last + 1
                self.containers[name] = {"service": service, "space": f"{self.prefix}{name}", "addresses": {}}
                self.join(name, last)
        self.containers["client"] = {"service": "client", "space": f"{self.prefix}client", "addresses": {}}
        self.services["client"] = {"networks": ["edge"]}
        self.join("client", 250)
        for name, container in self.containers.items():
            self.name_server(name, container)

    def join(self, name: str, last: int) -> None:
        container = self.containers[name]
        self.ip("netns", "add", container["space"])
        self.ip("-n", container["space"], "link", "set", "dev", "lo", "up")
        for network in self.services[container["service"]]["networks"]:
            address = f"{self.bridges[network]}.{last}"
            near, far = f"v{network[:2]}{last}", f"h{network[:2]}{last}"
            self.ip("-n", self.hub, "link", "add", far, "type", "veth", "peer", "name", near, "netns", container["space"])
            self.ip("-n", self.hub, "link", "set", "dev", far, "master", f"br-{network}", "up")
            self.ip("-n", container["space"], "address", "add", f"{address}/24", "dev", near)
            self.ip("-n", container["space"], "link", "set", "dev", near, "up")
            container["addresses"][network] = address

    def name_server(self, name: str, container: dict) -> None:
        def addresses(asked: str) -> list[str]:
            return [
                other["addresses"][network]
                for running, other in self.containers.items()
                for network in container["addresses"]
                if other["service"] == asked.rstrip(".") and network in other["addresses"] and running in self.processes
            ]

        opened: list[socket.socket] = []

        def open_there() -> None:
            # A thread may be in another network than its process.
            with open(f"/run/netns/{container['space']}") as space:
                if ctypes.CDLL(None, use_errno=True).setns(space.fileno(), CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), "setns")
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.bind(("127.0.0.11", 53))
            opened.append(sock)

        opener = threading.Thread(target=open_there)
        opener.start()
        opener.join()
        threading.Thread(target=NameServer(addresses).serve, args=opened, daemon=True).start()

    def command(self, name: str) -> list[str]:
        """The container's command, with the mounted files where they are here."""
        service = self.containers[name]["service"]
        spec, state = self.services[service], self.work / "volumes" / name
        state.mkdir(parents=True, exist_ok=True)
        command = [str(of) for of in spec.get("command", [])]
        program = PROGRAMS[service]
        if service in ("broker", "adapter"):
            command = [str(self.binaries / program)]
        elif service == "balancer":
            command = [found(program), "-db", "-f", "/usr/local/etc/haproxy/haproxy.cfg"]
        elif service == "prometheus":
            command = [found(program), "--web.listen-address=:9090", *command]
        else:
            command[0] = found(command[0])
        # Mounts are mounts here, too: over this machine's files, which stay as they are, as what is new goes into memory.
        root = self.work / "roots" / name
        root.mkdir(parents=True)
        script = [
            "set -e",
            f"cd '{root}'; mount -t tmpfs tmpfs .; cd '{root}'; mkdir new work root",
            "mount -t overlay overlay -o lowerdir=/,upperdir=new,workdir=work root",
            "for folder in proc dev sys; do mount --rbind /$folder root/$folder; done",
            "echo nameserver 127.0.0.11 > resolv.conf; mount --bind resolv.conf root/etc/resolv.conf",
        ]
        # They may be on another file system than the root.
        script.append(f"mkdir -p 'root{self.binaries}'; mount --bind '{self.binaries}' 'root{self.binaries}'")
        for volume in spec.get("volumes", []):
            source, target = volume.split(":")[:2]
            mounted = (self.root / source).resolve() if source.startswith(".") else state / source
            if not source.startswith("."):
                mounted.mkdir()
            make = f"mkdir -p 'root{target}'" if mounted.is_dir() else f"mkdir -p 'root{os.path.dirname(target)}'; touch 'root{target}'"
            script.append(f"{make}; mount --bind '{mounted}' 'root{target}'")
        script.append('exec chroot root "$@"')
        return self.inside(name, "unshare", "--mount", "bash", "-c", "\n".join(script), name, *command)

    def start(self, name: str) -> None:
        service = self.containers[name]["service"]
        log = open(self.work / f"{name}.log", "w")
        environment = {"PATH": os.environ["PATH"], **self.services[service].get("environment", {})}
        self.processes[name] = subprocess.Popen(self.command(name), stdout=log, stderr=log, env=environment)

    def healthy(self, name: str) -> None:
        """Waits until the service's own health check says so."""
        check = self.services[self.containers[name]["service"]].get("healthcheck")
        if not check:
            return
        command = [str(of) for of in check["test"][1:]]
        if command[0].startswith("/usr/local/bin/"):
            command[0] = str(self.binaries / pathlib.Path(command[0]).name)
        environment = {"PATH": os.environ["PATH"], **self.services[self.containers[name]["service"]].get("environment", {})}
        pid = self.processes[name].pid
        command = ["nsenter", "--target", str(pid), "--mount", "--net", "--root", *command]
        self.wait(f"{name} to be healthy", name, lambda: subprocess.run(command, env=environment, capture_output=True).returncode == 0)

    def wait(self, what: str, name: str, condition: Callable[[], object], limit: float = 40) -> None:
        end = time.monotonic() + limit
        while not condition():
            process = self.processes.get(name)
            if (process and process.poll() is not None) or time.monotonic() > end:
                log = self.work / f"{name}.log"
                sys.exit(f"compose: waited in vain for {what}; {name} says:\n" + "\n".join(log.read_text().splitlines()[-15:] if log.exists() else []))
            time.sleep(0.1)

    def get(self, url: str) -> str:
        told = subprocess.run(self.inside("client", "curl", "--silent", "--max-time", "3", url), capture_output=True, text=True)
        return told.stdout

    def stop(self) -> None:
        for process in self.processes.values():
            process.kill()
        for process in self.processes.values():
            process.wait()
        for container in self.containers.values():
            subprocess.run(["ip", "netns", "delete", container["space"]], check=False)
        subprocess.run(["ip", "netns", "delete", self.hub], check=False)


CLONE_NEWNET = 0x40000000


def found(program: str) -> str:
    path = shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin")
    return path or sys.exit(f"compose: {program} is missing: make deps")


@contextlib.contextmanager
def rehearsal(root: pathlib.Path, binaries: pathlib.Path) -> Iterator[Rehearsal]:
    with tempfile.TemporaryDirectory() as work:
        stage = Rehearsal(root, binaries, pathlib.Path(work))
        try:
            stage.prepare()
            yield stage
        finally:
            stage.stop()


def rehearse(root: pathlib.Path, binaries: pathlib.Path) -> None:
    with rehearsal(root, binaries) as stage:
        for service in PROGRAMS:
            names = [name for name, of in stage.containers.items() if of["service"] == service]
            for name in names:
                stage.start(name)
            for name in names:
                stage.healthy(name)
        balancer = stage.containers["balancer-1"]["addresses"]["edge"]
        # In each of two backends; the other places of their templates are empty.
        up = lambda: len(re.findall(r"^(?:mqtt|websocket),broker[0-9]+,.*,UP,", stage.get(f"http://{balancer}:8404/;csv"), re.MULTILINE))
        stage.wait("the balancer to find three replicas", "balancer-1", lambda: up() == 6)
        publish = stage.inside("client", "mosquitto_pub", "-h", balancer, "-q", "1", "-t", "rehearsal", "-m", "{}")
        subprocess.run(publish, check=True, timeout=20)
        metric = lambda name, of: sum(
            float(line.rsplit(" ", 1)[1]) for line in prometheus(stage, of).splitlines() if line.startswith(name)
        )
        stage.wait("the row", "adapter-1", lambda: metric("dunlin_adapter_committed_rows_total", "adapter-1") == 1)
        targets = lambda: prometheus_query(stage, "sum(up)")
        try:
            stage.wait("Prometheus to reach all five targets", "prometheus-1", lambda: targets() == 5)
        except SystemExit:
            ask = stage.inside("prometheus-1", "curl", "--silent", "http://127.0.0.1:9090/api/v1/targets?state=active")
            told = subprocess.run(ask, capture_output=True, text=True)
            print(*re.findall(r'"scrapeUrl":"[^"]*"|"lastError":"[^"]*"', told.stdout), sep="\n")
            raise
        # One replica leaves as `docker compose up --scale broker=2` has it leave.
        leaving = stage.processes["broker-3"]
        leaving.send_signal(signal.SIGTERM)
        limit = seconds(stage.services["broker"]["stop_grace_period"])
        try:
            code = leaving.wait(limit)
        except subprocess.TimeoutExpired:
            sys.exit(f"compose: a replica does not leave within stop_grace_period, {limit:g} s")
        if code != 0:
            sys.exit(f"compose: a replica that leaves ends with exit code {code}")
        del stage.processes["broker-3"]
        stage.wait("the balancer to forget it", "balancer-1", lambda: up() == 4)
        subprocess.run(publish, check=True, timeout=20)
        stage.wait("the second row", "adapter-1", lambda: metric("dunlin_adapter_committed_rows_total", "adapter-1") == 2)
        print("compose: rehearsed: three replicas behind the balancer, a row each for two messages, a replica left in time, Prometheus reached all")


def prometheus(stage: Rehearsal, name: str) -> str:
    """The metrics of a container, asked for in its own network."""
    told = subprocess.run(stage.inside(name, "curl", "--silent", "--max-time", "3", "http://127.0.0.1:9100/metrics"), capture_output=True, text=True)
    return told.stdout


def prometheus_query(stage: Rehearsal, expression: str) -> float:
    query = ["curl", "--silent", "--max-time", "3", "--get", "--data-urlencode", f"query={expression}", "http://127.0.0.1:9090/api/v1/query"]
    told = subprocess.run(stage.inside("prometheus-1", *query), capture_output=True, text=True).stdout
    value = re.search(r'"value":\[[^,]+,"([0-9.]+)"\]', told)
    return float(value[1]) if value else 0


def main() -> None:
    # Ended from outside, it still ends what it has started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=pathlib.Path, required=True)
    parser.add_argument("--rehearse", type=pathlib.Path, metavar="BINARIES", help="start the services with the binaries in this folder")
    given = parser.parse_args()
    root = given.root.resolve()
    check(root)
    for text in problems:
        print(text)
    if problems:
        sys.exit(1)
    if given.rehearse:
        rehearse(root, given.rehearse.resolve())


if __name__ == "__main__":
    main()

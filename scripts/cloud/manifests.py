"""Whether rendered manifests hold together: every object against the strict schemas of Kubernetes, and what no schema knows (names that must meet, rights,
bounds, who may talk to whom). Every problem is told at once.

    manifests.py --root TREE [--settings FOLDER] local=rendered.yaml gke+traces=rendered.yaml ...
"""

import argparse
import functools
import json
import pathlib
import re
import sys
import tomllib
from collections.abc import Iterator
from typing import Any

import jsonschema
import kubernetes_validate
import referencing
import referencing.jsonschema
import yaml

VERSIONS = ["1.33", "1.36"]
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
NAMESPACE = "dunlin"
# Objects that Kubernetes itself does not know, as strictly as ours use them.
TEXT = {"type": "string", "minLength": 1}
OWN_SCHEMAS = {
    ("monitoring.googleapis.com/v1", "PodMonitoring"): {
        "type": "object",
        "required": ["selector", "endpoints"],
        "additionalProperties": False,
        "properties": {
            "selector": {"type": "object", "required": ["matchLabels"], "additionalProperties": False, "properties": {"matchLabels": {"type": "object"}}},
            "endpoints": {
                "type": "array",
                "minItems": 1,
                "items": {
                    "type": "object",
                    "required": ["port"],
                    "additionalProperties": False,
                    "properties": {"port": TEXT, "path": TEXT, "interval": {"type": "string", "pattern": "^[0-9]+(s|m)$"}, "timeout": TEXT},
                },
            },
            "targetLabels": {
                "type": "object",
                "additionalProperties": False,
                "properties": {"metadata": {"type": "array", "items": {"enum": ["pod", "container", "node"]}}},
            },
        },
    },
    ("secrets-store-gke.csi.x-k8s.io/v1", "SecretProviderClass"): {
        "type": "object",
        "required": ["provider", "parameters"],
        "additionalProperties": False,
        "properties": {
            "provider": {"const": "gke"},
            "parameters": {"type": "object", "required": ["secrets"], "additionalProperties": False, "properties": {"secrets": TEXT}},
        },
    },
}
# Who may talk to whom: what ARCHITECTURE draws, and nothing else. Pods are named by app.kubernetes.io/name.
SCRAPERS = "namespaces gke-gmp-system,gmp-system,monitoring"
NAMES = [
    "kube-system pods k8s-app=kube-dns,node-local-dns UDP 53, TCP 53",
    "169.254.20.10/32 UDP 53, TCP 53",
    "169.254.169.254/32 UDP 53, TCP 53",
]
DRAWN = {
    "local": {
        "broker": {
            "in": ["anywhere mqtts, wss", "all namespaces pods dunlin/mqtt-client=true mqtt", f"{SCRAPERS} ops"],
            "out": [*NAMES, "pods app.kubernetes.io/name=redis redis"],
        },
        "adapter": {"in": [f"{SCRAPERS} ops"], "out": [*NAMES, "pods app.kubernetes.io/name=redis redis"]},
        "redis": {"in": ["pods app.kubernetes.io/name=broker,adapter redis"], "out": []},
    },
    "gke": {
        "broker": {
            "in": ["anywhere mqtts, wss", "all namespaces pods dunlin/mqtt-client=true mqtt", f"{SCRAPERS} ops"],
            "out": [*NAMES, "10.10.8.0/24 6379, 11000-13047"],
        },
        "adapter": {
            "in": [f"{SCRAPERS} ops"],
            "out": [
                *NAMES,
                "10.10.8.0/24 6379, 11000-13047",
                "0.0.0.0/0 but 10.0.0.0/8 100.64.0.0/10 169.254.0.0/16 172.16.0.0/12 192.168.0.0/16 443",
                "169.254.169.254/32 80",
                "169.254.169.252/32 987, 988",
            ],
        },
    },
}
# What the components add.
MORE = {
    "traces": {"broker": {"out": ["opentelemetry 4318"]}, "adapter": {"out": ["opentelemetry 4318"]}},
    "admin": {"broker": {"in": ["dunlin-admin admin"]}},
    "provisioning": {"broker": {"in": ["anywhere provisioning"]}},
    "authority": {},
}
PORTS = {"broker": {"mqtt": 1883, "mqtts": 8883, "wss": 8443, "ops": 9100}, "adapter": {"ops": 9100}, "redis": {"redis": 6379}}
MORE_PORTS = {"admin": {"admin": 9443}, "provisioning": {"provisioning": 9444}}
# What a load balancer, or a node, may offer to others.
FOR_THE_WORLD = ("mqtts", "wss", "provisioning")
# Variables that name a file which nobody else should read, or replace.
SECRET_FILE = re.compile(r"__(TOKENS_FILE|PASSWORD_FILE|USERS|KEYS?|CA_KEY|CERTIFICATE|CA_CERTIFICATE)$")
SECRET_NAME = re.compile(r"pass(word|wd)?$|secret|token|credential|api_?key|private_?key", re.IGNORECASE)
SECRET_TEXT = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----|\"private_key_id\"|AIza[0-9A-Za-z_-]{35}|dunlin_[A-Za-z0-9_-]{43}|[a-z+]+://[^/\s:@]*:[^/\s@]+@|(password|requirepass)\s*[=:]\s*\S"
)

problems: list[str] = []
Object = dict[str, Any]


def problem(of: Object | str, text: str) -> None:
    problems.append(f"{of if isinstance(of, str) else name_of(of)}: {text}")


def name_of(of: Object) -> str:
    return f"{of.get('kind')}/{(of.get('metadata') or {}).get('name')}"


# -- schemas

@functools.cache
def definitions(version: str) -> tuple[pathlib.Path, referencing.Registry]:
    """Where the schemas of a version are, and what they refer to."""
    root = pathlib.Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema"
    folders = sorted(root.glob(f"v{version}.*-local-strict"))
    if not folders:
        sys.exit(f"manifests.py: there are no schemas of Kubernetes {version}")
    contents = json.loads((folders[-1] / "_definitions.json").read_text())
    resource = referencing.Resource.from_contents(contents, default_specification=referencing.jsonschema.DRAFT7)
    # Crawled here, once: a registry that is not is crawled at each reference.
    return folders[-1], referencing.Registry().with_resource("_definitions.json", resource).crawl()


@functools.cache
def validator(version: str, api: str, kind: str) -> jsonschema.Draft7Validator | None:
    folder, registry = definitions(version)
    group, _, number = api.rpartition("/")
    file = folder / f"{kind.lower()}{'-' + group.split('.')[0] if group else ''}-{number}.json"
    return jsonschema.Draft7Validator(json.loads(file.read_text()), registry=registry) if file.exists() else None


def schemas(cluster: "Cluster") -> None:
    for of in cluster.objects:
        for text in against_schemas(json.dumps(of)):
            problem(of, text)


@functools.cache
def against_schemas(rendered: str) -> list[str]:
    """What the schemas say of an object. Most objects are the same in each overlay: they are looked at once."""
    of, said = json.loads(rendered), []
    own = OWN_SCHEMAS.get((of["apiVersion"], of["kind"]))
    for version in VERSIONS:
        checks = jsonschema.Draft7Validator(own) if own else validator(version, of["apiVersion"], of["kind"])
        if not checks:
            said.append(f"Kubernetes {version} knows no {of['apiVersion']} {of['kind']}, and there is no schema of ours")
            continue
        for error in checks.iter_errors(of.get("spec", {}) if own else of):
            said.append(f"Kubernetes {version}: {'.'.join(map(str, error.absolute_path)) or 'it'}: {error.message[:200]}")
    return said


# -- quantities

UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "m": 1e-3}


def quantity(text: str | float) -> float:
    match = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", str(text))
    if not match or match[2] not in UNITS:
        raise ValueError(f"{text!r} is no quantity")
    return float(match[1]) * UNITS[match[2]]


class Cluster:
    """What is rendered, by kind and name."""

    def __init__(self, objects: list[Object], overlay: str, components: list[str], root: pathlib.Path):
        self.objects, self.overlay, self.components, self.root = objects, overlay, components, root

    def ports(self, name: str) -> dict[str, int] | None:
        """The ports that a workload should have, with what the components add."""
        more = [MORE_PORTS.get(component, {}) for component in self.components] if name == "broker" else []
        return functools.reduce(lambda all, some: all | some, more, PORTS[name]) if name in PORTS else None

    def all(self, *kinds: str) -> list[Object]:
        return [of for of in self.objects if of["kind"] in kinds]

    def one(self, kind: str, name: str) -> Object | None:
        return next((of for of in self.all(kind) if of["metadata"]["name"] == name), None)

    def workloads(self) -> list[Object]:
        return self.all("Deployment", "StatefulSet", "DaemonSet", "Job")

    def selected(self, selector: Object | None) -> list[Object]:
        return [of for of in self.workloads() if matches(selector or {}, of["spec"]["template"]["metadata"].get("labels", {}))]

    def config(self, name: str, file: str) -> Object:
        """A TOML file of the ConfigMap that the workload mounts."""
        workload = self.one("Deployment", name)
        for volume in workload["spec"]["template"]["spec"]["volumes"] if workload else []:
            found = self.one("ConfigMap", volume.get("configMap", {}).get("name", ""))
            if found and file in found.get("data", {}):
                return tomllib.loads(found["data"][file])
        problem(f"Deployment/{name}", f"mounts no {file}")
        return {}


def matches(selector: Object, labels: dict[str, str]) -> bool:
    for key, value in selector.get("matchLabels", {}).items():
        if labels.get(key) != value:
            return False
    for expression in selector.get("matchExpressions", []):
        value, values = labels.get(expression["key"]), expression.get("values", [])
        if expression["operator"] == "In" and value not in values:
            return False
        if expression["operator"] == "NotIn" and value in values:
            return False
        if expression["operator"] == "Exists" and value is None:
            return False
    return True


def pod(of: Object) -> Object:
    return of["spec"]["template"]["spec"]


def containers(of: Object) -> list[Object]:
    return pod(of).get("initContainers", []) + pod(of)["containers"]


def ports(of: Object) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for container in containers(of) for port in container.get("ports", [])}


# -- rules

def namespaces(cluster: Cluster) -> None:
    space = cluster.one("Namespace", NAMESPACE)
    if not space:
        problem(f"Namespace/{NAMESPACE}", "is missing")
    elif space["metadata"].get("labels", {}).get("pod-security.kubernetes.io/enforce") != "restricted":
        problem(space, "pod security is not enforced at the level restricted")
    for of in cluster.objects:
        if of["kind"] != "Namespace" and of["metadata"].get("namespace") != NAMESPACE:
            problem(of, f"is in the namespace {of['metadata'].get('namespace')}, not in {NAMESPACE}")


def images(cluster: Cluster) -> None:
    version = tomllib.loads((cluster.root / "Cargo.toml").read_text())["workspace"]["package"]["version"]
    compose = (cluster.root / "compose.yaml").read_text()
    for of in cluster.workloads():
        for container in containers(of):
            image = container.get("image", "")
            tag = re.search(r":([A-Za-z0-9_][A-Za-z0-9_.-]*)(?:@|$)", image.rpartition("/")[2])
            if not tag and "@sha256:" not in image:
                problem(of, f"image {image}: neither a version nor a digest: it is another one tomorrow")
            elif tag and (tag[1] in ("latest", "main", "edge", "stable") or not re.search(r"[0-9]", tag[1])) and "@sha256:" not in image:
                problem(of, f"image {image}: the tag {tag[1]} is no version: it is another one tomorrow")
            elif "dunlin/" in image and tag and tag[1] != version:
                problem(of, f"image {image}: the workspace has the version {version}")
            elif "dunlin/" not in image and image not in compose:
                problem(of, f"image {image}: compose.yaml has another one")


def security(cluster: Cluster) -> None:
    for of in cluster.workloads():
        spec = pod(of)
        context = spec.get("securityContext", {})
        for key in ("hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"):
            if spec.get(key):
                problem(of, f"{key} has no place here")
        if context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            problem(of, "securityContext.seccompProfile must be RuntimeDefault")
        for container in containers(of):
            own = container.get("securityContext", {})
            at = f"container {container['name']}"
            user = own.get("runAsUser", context.get("runAsUser"))
            never_root = own.get("runAsNonRoot", context.get("runAsNonRoot"))
            if never_root is not True or not user:
                problem(of, f"{at} may run as root: runAsNonRoot and a runAsUser above 0 are needed, and are {never_root} and {user}")
            if own.get("allowPrivilegeEscalation") is not False:
                problem(of, f"{at}: allowPrivilegeEscalation must be false")
            if own.get("readOnlyRootFilesystem") is not True:
                problem(of, f"{at}: readOnlyRootFilesystem must be true")
            if own.get("capabilities", {}).get("drop") != ["ALL"] or own.get("capabilities", {}).get("add"):
                problem(of, f"{at}: every capability must be dropped, and none added")
            if own.get("privileged"):
                problem(of, f"{at}: privileged has no place here")
        for volume in spec.get("volumes", []):
            if "hostPath" in volume:
                problem(of, f"volume {volume['name']}: hostPath has no place here")


def probes(cluster: Cluster) -> None:
    paths = {
        "broker": {"startupProbe": "/health/started", "readinessProbe": "/health/ready", "livenessProbe": "/health/live"},
        "adapter": {"startupProbe": "/health/live", "readinessProbe": "/health/ready", "livenessProbe": "/health/live"},
    }
    for of in cluster.workloads():
        for container in pod(of)["containers"]:
            names = {port["name"] for port in container.get("ports", [])}
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                asked = container.get(probe)
                if not asked:
                    problem(of, f"container {container['name']} has no {probe}")
                    continue
                way = asked.get("httpGet") or asked.get("tcpSocket") or {}
                if "exec" not in asked and way.get("port") not in names:
                    problem(of, f"container {container['name']}: {probe}: there is no port called {way.get('port')}")
                wanted = paths.get(of["metadata"]["name"], {}).get(probe)
                if wanted and way.get("path") != wanted:
                    problem(of, f"container {container['name']}: {probe} asks {way.get('path')}, not {wanted}")


def resources(cluster: Cluster) -> None:
    for of in cluster.workloads():
        for container in containers(of):
            at = f"container {container['name']}"
            given = container.get("resources", {})
            values = {}
            for kind in ("requests", "limits"):
                for what in ("cpu", "memory"):
                    if what not in given.get(kind, {}):
                        problem(of, f"{at}: no {kind}.{what}")
                    else:
                        values[kind, what] = quantity(given[kind][what])
            if len(values) < 4:
                continue
            for what in ("cpu", "memory"):
                if values["limits", what] < values["requests", what]:
                    problem(of, f"{at}: limits.{what} {given['limits'][what]} is below requests.{what} {given['requests'][what]}")
            if values["limits", "memory"] != values["requests", "memory"]:
                problem(of, f"{at}: memory is not to be overcommitted: limits.memory must be requests.memory")
            if cluster.overlay == "gke":
                autopilot(of, at, values, given)


def autopilot(of: Object, at: str, values: dict, given: Object) -> None:
    """What Autopilot would change, or refuse: its general-purpose class, without bursting, as the strictest."""
    cpu, memory = values["requests", "cpu"], values["requests", "memory"] / 2**30
    if abs(cpu / 0.25 - round(cpu / 0.25)) > 1e-9 or not 0.25 <= cpu <= 30:
        problem(of, f"{at}: Autopilot takes 250m to 30 CPUs in steps of 250m: requests.cpu {given['requests']['cpu']} would be changed")
    if not 0.5 <= memory <= 110:
        problem(of, f"{at}: Autopilot takes 512Mi to 110Gi: requests.memory {given['requests']['memory']} would be changed")
    if not 1 <= memory / cpu <= 6.5:
        problem(of, f"{at}: Autopilot takes 1 to 6.5 GiB for each CPU; {memory / cpu:g} would be changed")
    for kind in ("requests", "limits"):
        if "ephemeral-storage" not in given.get(kind, {}):
            problem(of, f"{at}: no {kind}.ephemeral-storage: Autopilot would reserve 1 GiB")


def wiring(cluster: Cluster) -> None:
    """Names that must meet: accounts, volumes, ConfigMaps and their keys, Secrets that the documentation says how to make."""
    guide = cluster.root / "docs/kubernetes.md"
    documented = guide.read_text() if guide.exists() else ""
    for of in cluster.workloads():
        spec, labels = pod(of), of["spec"]["template"]["metadata"].get("labels", {})
        if not matches(of["spec"]["selector"], labels):
            problem(of, "its selector does not match its own pods")
        account = spec.get("serviceAccountName")
        if not cluster.one("ServiceAccount", account or ""):
            problem(of, f"there is no ServiceAccount called {account}")
        if spec.get("automountServiceAccountToken") is not False:
            problem(of, "automountServiceAccountToken must be false: it does not talk to Kubernetes")
        if spec.get("enableServiceLinks") is not False:
            problem(of, "enableServiceLinks must be false: variables of other Services are not settings")
        volumes = {volume["name"]: volume for volume in spec.get("volumes", [])}
        for template in of["spec"].get("volumeClaimTemplates", []):
            volumes[template["metadata"]["name"]] = template
        mounted = set()
        for container in containers(of):
            for mount in container.get("volumeMounts", []):
                mounted.add(mount["name"])
                if mount["name"] not in volumes:
                    problem(of, f"container {container['name']} mounts {mount['name']}, and there is no such volume")
                if "subPath" in mount or "subPathExpr" in mount:
                    problem(of, f"container {container['name']} mounts {mount['name']} by subPath: it would never be renewed")
            for variable in container.get("env", []):
                environment(cluster, of, variable)
        for name in sorted(set(volumes) - mounted):
            problem(of, f"the volume {name} is mounted nowhere")
        for volume in spec.get("volumes", []):
            if "configMap" in volume and not cluster.one("ConfigMap", volume["configMap"]["name"]):
                problem(of, f"there is no ConfigMap called {volume['configMap']['name']}")
            if "persistentVolumeClaim" in volume and not cluster.one("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]):
                problem(of, f"there is no PersistentVolumeClaim called {volume['persistentVolumeClaim']['claimName']}")
            if "csi" in volume and not cluster.one("SecretProviderClass", volume["csi"].get("volumeAttributes", {}).get("secretProviderClass", "")):
                problem(of, f"there is no SecretProviderClass {volume['csi'].get('volumeAttributes')}")
            secrets = [source["secret"]["name"] for source in volume.get("projected", {}).get("sources", []) if "secret" in source]
            secrets += [volume["secret"]["secretName"]] if "secret" in volume else []
            for secret in secrets:
                if f"secret generic {secret} " not in documented and f"secret tls {secret} " not in documented:
                    problem(of, f"the Secret {secret} is mounted, and docs/kubernetes.md does not say how to make it")
        for expression in spread(spec):
            if not matches(expression, labels):
                problem(of, f"a rule of its placement counts other pods: {expression}")


def spread(spec: Object) -> Iterator[Object]:
    for constraint in spec.get("topologySpreadConstraints", []):
        yield constraint["labelSelector"]
    rules = spec.get("affinity", {}).get("podAntiAffinity", {})
    for term in rules.get("requiredDuringSchedulingIgnoredDuringExecution", []):
        yield term["labelSelector"]
    for weighted in rules.get("preferredDuringSchedulingIgnoredDuringExecution", []):
        yield weighted["podAffinityTerm"]["labelSelector"]


def environment(cluster: Cluster, of: Object, variable: Object) -> None:
    name = variable["name"]
    source = variable.get("valueFrom", {})
    # Files are looked at by secret_files.
    if "value" in variable and SECRET_NAME.search(name) and not SECRET_FILE.search(name):
        problem(of, f"{name} is written into the manifest: a secret comes from a Secret, or a file")
    if "secretKeyRef" in source:
        problem(of, f"{name}: a secret in the environment shows in every dump of it: mount a file")
    reference = source.get("configMapKeyRef")
    if reference:
        found = cluster.one("ConfigMap", reference["name"])
        if not found or reference["key"] not in found.get("data", {}):
            problem(of, f"{name}: there is no ConfigMap {reference['name']} with the key {reference['key']}")


def secrets(cluster: Cluster) -> None:
    for of in cluster.objects:
        if of["kind"] == "Secret":
            problem(of, "a Secret in the manifests is a secret in git: make it in the cluster, or take it from Secret Manager")
        for path, text in texts(of):
            if SECRET_TEXT.search(text):
                problem(of, f"{path} looks like a secret")


def texts(of: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(of, dict):
        for key, value in of.items():
            yield from texts(value, f"{path}.{key}".lstrip("."))
    elif isinstance(of, list):
        for index, value in enumerate(of):
            yield from texts(value, f"{path}[{index}]")
    elif isinstance(of, str):
        yield path, of


def services(cluster: Cluster) -> None:
    for of in cluster.all("Service"):
        found = cluster.selected({"matchLabels": of["spec"].get("selector", {})}) if of["spec"].get("selector") else []
        if not found:
            problem(of, f"its selector {of['spec'].get('selector')} matches no pod")
        for port in of["spec"]["ports"]:
            for workload in found:
                if port.get("targetPort") not in ports(workload):
                    problem(of, f"port {port.get('name')}: {name_of(workload)} has no port called {port.get('targetPort')}")
        if of["spec"].get("type") == "LoadBalancer":
            if of["spec"].get("externalTrafficPolicy") != "Local":
                problem(of, "externalTrafficPolicy must be Local: else brokers see the nodes' addresses for the clients'")
        if of["spec"].get("type", "ClusterIP") != "ClusterIP" or of["spec"].get("externalIPs"):
            for port in of["spec"]["ports"]:
                if port.get("targetPort") == "admin":
                    problem(of, f"port {port.get('name')}: the administration is never for the world: type ClusterIP")
                elif port.get("targetPort") not in FOR_THE_WORLD:
                    problem(of, f"port {port.get('name')}: only what is encrypted is for the world")
    for of in cluster.workloads():
        name = of["metadata"]["name"]
        if ports(of) != cluster.ports(name):
            problem(of, f"its ports are {ports(of)}, and should be {cluster.ports(name)}")


def variables(of: Object) -> dict[str, str]:
    return {variable["name"]: variable["value"] for variable in pod(of)["containers"][0].get("env", []) if "value" in variable}


def secret_files(cluster: Cluster) -> None:
    """Passwords, tokens and keys are files of a Secret, or of Secret Manager; and none lies about where nobody reads it."""
    for of in cluster.workloads():
        volumes = {volume["name"]: volume for volume in pod(of).get("volumes", [])}
        for container in containers(of):
            mounts = {mount["mountPath"].rstrip("/") + "/": volumes.get(mount["name"], {}) for mount in container.get("volumeMounts", [])}
            for variable in container.get("env", []):
                if not SECRET_FILE.search(variable["name"]):
                    continue
                for file in variable.get("value", "").split(","):
                    where = next((mounts[path] for path in mounts if file.startswith(path)), {})
                    sources = where.get("projected", {}).get("sources", [where])
                    if not all("secret" in source or "csi" in source for source in sources):
                        problem(of, f"{variable['name']}: {file} comes from no Secret")
                    for source in sources:
                        if "csi" in source and not provided(cluster, source, file.rpartition("/")[2]):
                            problem(of, f"{variable['name']}: {file} is not among the files of {source['csi']['volumeAttributes']}")


def provided(cluster: Cluster, source: Object, file: str) -> bool:
    """Whether the SecretProviderClass of a volume brings this file."""
    of = cluster.one("SecretProviderClass", source["csi"].get("volumeAttributes", {}).get("secretProviderClass", ""))
    listed = yaml.load(of["spec"]["parameters"]["secrets"], Loader=LOADER) if of else []
    return any(secret.get("path") == file for secret in listed)


def listeners(cluster: Cluster) -> None:
    """The ports of the manifests are those that the configuration listens on, and a replica has the time that it wants to leave."""
    broker = cluster.one("Deployment", "broker")
    config = cluster.config("broker", "dunlin.toml")
    found = {listener["name"]: int(listener["address"].rpartition(":")[2]) for listener in config.get("listener", [])}
    found["ops"] = int(config.get("ops", {}).get("listen", ":0").rpartition(":")[2])
    said = variables(broker) if broker else {}
    for name in ("admin", "provisioning"):
        where = f"DUNLIN__{name.upper()}__"
        if f"{where}LISTEN" in said:
            found[name] = int(said[f"{where}LISTEN"].rpartition(":")[2])
            if not {f"{where}TLS__CERTIFICATE", f"{where}TLS__KEY"} <= said.keys() or f"{where}PLAIN" in said:
                problem(broker, f"the listener {name} has no TLS: {where}TLS__CERTIFICATE and {where}TLS__KEY")
        if name in config:
            problem("dunlin.toml", f"has [{name}]: k8s/components/{name} is the place for it")
    if found != cluster.ports("broker"):
        problem("dunlin.toml", f"listens on {found}, and the manifests say {cluster.ports('broker')}")
    for listener in config.get("listener", []):
        if listener["name"] != "mqtt" and "tls" not in listener:
            problem("dunlin.toml", f"the listener {listener['name']} is open to the world without TLS")
    if not config.get("auth", {}).get("users"):
        problem("dunlin.toml", "auth.users is missing: whoever reaches the port may connect")
    leaving = (config.get("drain_delay_ms", 0) + config.get("drain_timeout_ms", 10000)) / 1000 + 5
    if broker and pod(broker).get("terminationGracePeriodSeconds", 30) < leaving:
        problem(broker, f"terminationGracePeriodSeconds is less than the {leaving:g} seconds that a replica takes to leave")
    if broker:
        probe = pod(broker)["containers"][0].get("readinessProbe", {})
        noticed = probe.get("periodSeconds", 10) * probe.get("failureThreshold", 3)
        if noticed <= config.get("drain_delay_ms", 0) / 1000:
            problem(broker, f"its node stops passing connections on after {noticed} s unready, before drain_delay_ms is over")
    adapter = cluster.one("Deployment", "adapter")
    config = cluster.config("adapter", "adapter.toml")
    if adapter and pod(adapter).get("terminationGracePeriodSeconds", 30) <= config.get("shutdown", {}).get("timeout_seconds", 30):
        problem(adapter, "terminationGracePeriodSeconds is no more than shutdown.timeout_seconds")


def tap(cluster: Cluster) -> None:
    """All partitions together are well below what Redis holds: here it is known, on Google Cloud it is at least the smallest."""
    bound = cluster.config("adapter", "adapter.toml")["tap"]
    redis = cluster.one("StatefulSet", "redis")
    holds = 1.1e9
    if redis:
        arguments = pod(redis)["containers"][0]["args"]
        holds = quantity(arguments[arguments.index("--maxmemory") + 1].replace("gb", "Gi").replace("mb", "Mi"))
    if bound["partitions"] * bound["max_bytes"] > 0.6 * holds:
        problem("adapter.toml", f"{bound['partitions']} partitions of {bound['max_bytes']} bytes are over six tenths of what Redis holds, {holds:.0f}")


def disruption(cluster: Cluster) -> None:
    replicas = {}
    for of in cluster.workloads():
        scaler = next((one for one in cluster.all("HorizontalPodAutoscaler") if one["spec"]["scaleTargetRef"]["name"] == of["metadata"]["name"]), None)
        if scaler and "replicas" in of["spec"]:
            problem(of, "sets replicas, and so does its autoscaler: each apply would undo what that one did")
        replicas[of["metadata"]["name"]] = scaler["spec"]["minReplicas"] if scaler else of["spec"].get("replicas", 1)
        if of["metadata"]["name"] == "broker":
            rolling = of["spec"].get("strategy", {}).get("rollingUpdate", {})
            if rolling.get("maxUnavailable") != 0 or not rolling.get("maxSurge"):
                problem(of, "a rollout must add a replica before it takes one: maxSurge above 0, maxUnavailable 0")
            if replicas["broker"] < 2:
                problem(of, "one broker is none while it is replaced: at least 2")
    for of in cluster.all("PodDisruptionBudget"):
        found = cluster.selected(of["spec"].get("selector"))
        if not found:
            problem(of, f"its selector {of['spec'].get('selector')} matches no pod")
        for workload in found:
            count, spec = replicas[workload["metadata"]["name"]], of["spec"]
            spare = spec["maxUnavailable"] if "maxUnavailable" in spec else count - spec.get("minAvailable", 0)
            if not isinstance(spare, int) or spare < 1:
                problem(of, f"lets none of {count} go: no node could ever be emptied")
            elif spare >= count:
                problem(of, f"lets all {count} of {name_of(workload)} go at once")
    for name in ("broker", *(["adapter"] if cluster.overlay == "gke" else [])):
        if not any(cluster.one("Deployment", name) in cluster.selected(of["spec"].get("selector")) for of in cluster.all("PodDisruptionBudget")):
            problem(f"Deployment/{name}", "has no PodDisruptionBudget")


def scaling(cluster: Cluster) -> None:
    # The catalogue, which is held against the running broker elsewhere: name, type, labels.
    catalogue = {row[0]: row[1:] for row in re.findall(r"^\| `([a-z_]+)` \| (\w+) \| ([^|]*) \|", (cluster.root / "docs/metrics.md").read_text(), re.MULTILINE)}
    for of in cluster.all("HorizontalPodAutoscaler"):
        target = of["spec"]["scaleTargetRef"]
        workload = cluster.one(target["kind"], target["name"])
        if not workload:
            problem(of, f"there is no {target['kind']} called {target['name']}")
        if of["spec"]["minReplicas"] >= of["spec"]["maxReplicas"]:
            problem(of, "minReplicas is not below maxReplicas")
        if of["spec"].get("behavior", {}).get("scaleDown", {}).get("stabilizationWindowSeconds", 0) < 300:
            problem(of, "scaleDown.stabilizationWindowSeconds is below 300: each replica that goes costs reconnects")
        for metric in of["spec"]["metrics"]:
            if metric["type"] != "Pods":
                continue
            name = metric["pods"]["metric"]["name"]
            source, _, rest = name.partition("|")
            known = catalogue.get(rest.partition("|")[0])
            if source != "prometheus.googleapis.com" or not known:
                problem(of, f"{name}: docs/metrics.md has no such metric: prometheus.googleapis.com|NAME|TYPE is wanted")
            elif known[0] != rest.partition("|")[2]:
                problem(of, f"{name}: it is a {known[0]}")
            elif known[1].strip():
                problem(of, f"{name}: has several series for each pod, by {known[1].strip()}: a pod needs one")
    scaler = cluster.one("HorizontalPodAutoscaler", "adapter")
    if scaler:
        partitions = cluster.config("adapter", "adapter.toml").get("tap", {}).get("partitions", 4)
        if scaler["spec"]["maxReplicas"] > partitions:
            problem(scaler, f"maxReplicas is above tap.partitions, which is {partitions}: the others would have nothing to read")
    for of in cluster.all("PodMonitoring"):
        found = cluster.selected(of["spec"]["selector"])
        if not found:
            problem(of, f"its selector {of['spec']['selector']} matches no pod")
        for workload in found:
            for endpoint in of["spec"]["endpoints"]:
                if endpoint["port"] not in ports(workload):
                    problem(of, f"{name_of(workload)} has no port called {endpoint['port']}")
    if cluster.overlay == "gke":
        for name in ("broker", "adapter"):
            if not cluster.one("PodMonitoring", name):
                problem(f"PodMonitoring/{name}", "is missing: alerts and dashboards know the job by this name")


# -- who may talk to whom

def labels_text(selector: Object) -> str:
    parts = [f"{key}={value}" for key, value in selector.get("matchLabels", {}).items()]
    parts += [f"{of['key']}={','.join(of.get('values', []))}" for of in selector.get("matchExpressions", [])]
    return " ".join(parts)


def peer_text(peer: Object) -> str:
    if "ipBlock" in peer:
        block = peer["ipBlock"]
        return block["cidr"] + (" but " + " ".join(block["except"]) if block.get("except") else "")
    parts = []
    if "namespaceSelector" in peer:
        text = labels_text(peer["namespaceSelector"]).replace("kubernetes.io/metadata.name=", "")
        parts.append("all namespaces" if not text else text if "," not in text else f"namespaces {text}")
    if "podSelector" in peer:
        text = labels_text(peer["podSelector"])
        parts.append(f"pods {text}" if text else "all pods")
    return " ".join(parts)


def port_text(port: Object) -> str:
    text = str(port.get("port", "all ports")) + (f"-{port['endPort']}" if "endPort" in port else "")
    return f"{port['protocol']} {text}" if "protocol" in port and port.get("port") == 53 else text


def network(cluster: Cluster) -> None:
    allowed: dict[str, dict[str, set[str]]] = {}
    closed: dict[str, set[str]] = {}
    for workload in cluster.workloads():
        name = workload["metadata"]["name"]
        allowed[name], closed[name] = {"in": set(), "out": set()}, set()
    for of in cluster.all("NetworkPolicy"):
        spec = of["spec"]
        found = cluster.selected(spec.get("podSelector"))
        if not found:
            problem(of, f"its podSelector {spec.get('podSelector')} matches no pod")
        for workload in found:
            name = workload["metadata"]["name"]
            closed[name] |= set(spec.get("policyTypes", []))
            for way, rules, whose in (("in", spec.get("ingress") or [], "from"), ("out", spec.get("egress") or [], "to")):
                for rule in rules:
                    what = ", ".join(port_text(port) for port in rule.get("ports", [])) or "all ports"
                    for peer in rule.get(whose) or [None]:
                        allowed[name][way].add(f"{peer_text(peer) if peer else 'anywhere'} {what}")
                    targets = [workload] if way == "in" else [to for peer in rule.get("to") or [] if "podSelector" in peer and "namespaceSelector" not in peer
                                                              for to in cluster.selected(peer["podSelector"])]
                    for port in rule.get("ports", []):
                        for target in targets:
                            if isinstance(port.get("port"), str) and port["port"] not in ports(target):
                                problem(of, f"{name_of(target)} has no port called {port['port']}")
    for name, ways in allowed.items():
        if closed[name] != {"Ingress", "Egress"}:
            only = ", ".join(sorted(closed[name])) or "nothing"
            problem(f"pods of {name}", f"only {only} is closed by a NetworkPolicy: what is not allowed must be forbidden")
        drawn = dict(DRAWN[cluster.overlay].get(name, {"in": [], "out": []}))
        for component in cluster.components:
            for way, edges in MORE[component].get(name, {}).items():
                drawn[way] = drawn[way] + edges
        for way, whose in (("in", "from"), ("out", "to")):
            for edge in sorted(ways[way] - set(drawn[way])):
                problem(f"pods of {name}", f"NetworkPolicy allows {whose} {edge}, which the architecture does not draw")
            for edge in sorted(set(drawn[way]) - ways[way]):
                problem(f"pods of {name}", f"NetworkPolicy does not allow {whose} {edge}, which the architecture draws")


def identity(cluster: Cluster) -> None:
    """The service accounts are those that Terraform binds, and Terraform has every output that is read."""
    if cluster.overlay != "gke":
        return
    for name in ("broker", "adapter"):
        account = cluster.one("ServiceAccount", name)
        email = (account or {}).get("metadata", {}).get("annotations", {}).get("iam.gke.io/gcp-service-account", "")
        if not re.fullmatch(r"[a-z0-9-]+@[a-z0-9-]+\.iam\.gserviceaccount\.com", email):
            problem(f"ServiceAccount/{name}", f"is not bound to a service account of Google Cloud: {email!r}")
    service = cluster.one("Service", "broker")
    annotations = (service or {}).get("metadata", {}).get("annotations", {})
    if annotations.get("cloud.google.com/l4-rbs") != "enabled" or not annotations.get("networking.gke.io/load-balancer-ip-addresses"):
        problem("Service/broker", "needs the annotations cloud.google.com/l4-rbs: enabled and networking.gke.io/load-balancer-ip-addresses")
    for of in cluster.all("SecretProviderClass"):
        for secret in yaml.load(of["spec"]["parameters"]["secrets"], Loader=LOADER):
            if not re.fullmatch(r"projects/[a-z0-9-]+/secrets/[A-Za-z0-9_-]+/versions/latest", secret.get("resourceName", "")) or not secret.get("path"):
                problem(of, f"{secret}: must be resourceName: projects/P/secrets/S/versions/latest, and a path")
    terraform = cluster.root / "terraform"
    if not terraform.exists():
        return
    bound = (terraform / "modules/identity/main.tf").read_text()
    programs = re.search(r"programs = \{(.*?)\n  \}", bound, re.DOTALL)
    names = set(re.findall(r"^    (\w+)\s+=", programs[1], re.MULTILINE)) if programs else set()
    if names != {"broker", "adapter"} or "[${var.namespace}/${each.key}]" not in bound:
        problem("terraform/modules/identity", f"binds the accounts {sorted(names)} by a name of its own, and the manifests' are broker and adapter")
    outputs = set(re.findall(r'^output "([a-z_]+)"', (terraform / "outputs.tf").read_text(), re.MULTILINE))
    read = set(re.findall(r'^    "([a-z_]+)": (?:str|list|int),$', (cluster.root / "scripts/k8s-from-terraform").read_text(), re.MULTILINE))
    for name in sorted(read - outputs):
        problem("scripts/k8s-from-terraform", f"reads the output {name}, which terraform/outputs.tf does not have")
    if not read:
        problem("scripts/k8s-from-terraform", "its table OUTPUTS was not found")


RULES = [schemas, namespaces, images, security, probes, resources, wiring, secrets, secret_files, services, listeners, tap, disruption, scaling, network, identity]


def check(given: argparse.Namespace, rendered: str) -> bool:
    """Whether this one is well. Says what is not."""
    which, _, path = rendered.partition("=")
    overlay, *components = which.split("+")
    if overlay not in DRAWN or not set(components) <= MORE.keys() or not path:
        sys.exit(f"manifests.py: {rendered}: must be local=FILE or gke=FILE, or local+traces=FILE")
    problems.clear()
    cluster = Cluster([of for of in yaml.load_all(pathlib.Path(path).read_text(), Loader=LOADER) if of], overlay, components, given.root)
    for rule in RULES:
        try:
            rule(cluster)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            # The schema has said so, too; the other rules go on.
            problem(rule.__name__, f"cannot be checked: {type(error).__name__}: {error}")
    if given.settings:
        settings(cluster, given.settings / pathlib.Path(path).stem)
    for text in dict.fromkeys(problems):
        print(f"{overlay}: {text}")
    if not problems:
        print(f"{pathlib.Path(path).stem}: {len(cluster.objects)} objects, against Kubernetes {' and '.join(VERSIONS)}: well")
    return not problems


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=pathlib.Path, required=True)
    parser.add_argument("--settings", type=pathlib.Path, help="write what the containers are configured with here, for the binaries' own checks")
    parser.add_argument("rendered", nargs="+", help="overlay=file")
    given = parser.parse_args()
    well = [check(given, rendered) for rendered in given.rendered]
    sys.exit(not all(well))


def settings(cluster: Cluster, folder: pathlib.Path) -> None:
    """For each Deployment the files of its ConfigMap, and its variables as lines NAME=VALUE."""
    for of in cluster.all("Deployment"):
        name = of["metadata"]["name"]
        into = folder / name
        into.mkdir(parents=True, exist_ok=True)
        for volume in pod(of).get("volumes", []):
            found = cluster.one("ConfigMap", volume.get("configMap", {}).get("name", ""))
            for file, text in (found or {}).get("data", {}).items():
                (into / file).write_text(text)
        lines = []
        for variable in pod(of)["containers"][0].get("env", []):
            reference = variable.get("valueFrom", {}).get("configMapKeyRef", {})
            found = cluster.one("ConfigMap", reference.get("name", "")) or {}
            lines.append(f"{variable['name']}={variable.get('value', found.get('data', {}).get(reference.get('key'), ''))}\n")
        (into / "environment").write_text("".join(lines))


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""terraform_rules.py TREE [PLAN.json]: what the provider's schema does not say, asked of the files in TREE/terraform, or of a plan of them (`terraform show
-json`).

Files: every variable has a description, a type and, where it can be wrong, a validation; every output says who needs it; what k8s/ takes is there; nothing
makes a key.
Plans: nothing lets the world, or the rest of the network, into Redis or the control plane; rights are few; Redis is as docs/redis.md wants it; tables,
views, alerts and dashboards are those of the rest of the project; and what the API refuses though the schema allows it."""
import ipaddress
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

# What scripts/k8s-from-terraform, and whoever follows docs/google-cloud.md, ask for.
OUTPUTS = """
    project_id region cluster_name namespace registry broker_service_account adapter_service_account redis_url redis_ranges redis_ports
    redis_wait_replicas redis_ca_secret redis_password_secret broker_tls_secret broker_client_ca_secret broker_users_secret
    broker_admin_tls_secret broker_admin_tokens_secret provisioning_keys_secret provisioning_authority_secret mqtt_address mqtt_address_name domain bigquery_dataset
""".split()

# Rights on the whole project that somebody here may have.
PROJECT_ROLES = {"roles/container.defaultNodeServiceAccount", "roles/monitoring.viewer", "roles/bigquery.jobUser"}
# Rights on one thing.
ROLES = PROJECT_ROLES | {
    "roles/artifactregistry.reader",
    "roles/artifactregistry.writer",
    "roles/bigquery.dataEditor",
    "roles/bigquery.dataViewer",
    "roles/iam.workloadIdentityUser",
    "roles/secretmanager.secretAccessor",
}
WORLD = {"allUsers", "allAuthenticatedUsers"}
# Would put a private key or a password into the state.
# Secrets of the administration and of provisioning: the broker's alone, and there only if they were asked for.
BROKERS_ONLY = {
    "broker-admin-tls": ("admin", {True}),
    "broker-admin-tokens": ("admin", {True}),
    "provisioning-keys": ("provisioning", {"keys", "authority"}),
    "provisioning-authority": ("provisioning", {"authority"}),
}
SECRET_MAKERS = r"google_service_account_key|random_password|tls_private_key|google_secret_manager_secret_version_access"


class Findings:
    def __init__(self):
        self.all = []

    def say(self, where, what):
        if (where, what) not in self.all:
            self.all.append((where, what))


def blocks(text, kind):
    """Blocks of this kind of a file that terraform fmt has formatted: their name and what is in them.
"""
    return re.findall(rf'^{kind} "(\w+)"(?: "\w+")? \{{\n(.*?)^\}}', text, re.M | re.S)


def check_files(tree, findings):
    terraform = tree / "terraform"
    outputs = {}
    for file in sorted(terraform.rglob("*.tf")):
        where, text, at_root = str(file.relative_to(tree)), file.read_text(), file.parent == terraform
        for name, body in blocks(text, "variable"):
            description = re.search(r'^  description\s*= "(.*)"', body, re.M)
            kind = re.search(r"^  type\s*= (\w+)", body, re.M)
            if not description or len(description[1]) < 7 or not description[1].rstrip().endswith("."):
                findings.say(where, f"variable {name} has no description (a sentence)")
            if not kind or kind[1] == "any":
                findings.say(where, f"variable {name} has no type")
            elif at_root and kind[1] != "bool" and "  validation {" not in body:
                findings.say(where, f"variable {name} can be wrong, and has no validation")
        for name, body in blocks(text, "output"):
            description = re.search(r'^  description\s*= "(.*)"', body, re.M)
            if not description or not re.search(r"\bFor \S", description[1]):
                findings.say(where, f"output {name} does not say who needs it (a description with \"For ...\")")
            if at_root:
                outputs[name] = where
        made = re.search(rf'^(?:resource|ephemeral|data) "({SECRET_MAKERS})"', text, re.M)
        if made:
            findings.say(where, f"{made[1]} puts a secret into the state: secrets come from Secret Manager, and pods have identities")
        if file.name == "main.tf" and not at_root:
            versions = file.with_name("versions.tf")
            if not versions.exists() or not re.search(r'version = "~> \d+\.\d+"', versions.read_text()):
                findings.say(where, "the module does not say in versions.tf which versions of the provider it is for")
    for name in OUTPUTS:
        if name not in outputs:
            findings.say("terraform/outputs.tf", f"output {name} is missing: k8s/ and docs/google-cloud.md use it")
    for name in outputs:
        if name not in OUTPUTS:
            findings.say("terraform/outputs.tf", f"output {name} is known to nobody: is its name right? (OUTPUTS in terraform_rules.py)")
    used = set(re.findall(r'source = "\./modules/([\w-]+)"', (terraform / "main.tf").read_text()))
    for module in sorted(path.name for path in (terraform / "modules").iterdir()):
        if module not in used:
            findings.say("terraform/main.tf", f"module {module} is not used")


def resources(plan):
    def of(module):
        yield from module.get("resources", [])
        for child in module.get("child_modules", []):
            yield from of(child)

    return [r for r in of(plan["planned_values"]["root_module"]) if r["mode"] == "managed"]


def first(values, *path):
    """What is at the path through blocks, of each the first; None where there is none, or it is not known yet."""
    for key in path:
        if isinstance(values, list):
            values = values[0] if values else None
        values = values.get(key) if isinstance(values, dict) else None
    return values


def is_world(cidr):
    return ipaddress.ip_network(cidr, strict=False).prefixlen < 8


class PlanRules:
    def __init__(self, tree, name, plan, findings):
        self.tree, self.plan, self.findings = tree, plan, findings
        self.name = name
        self.resources = resources(plan)
        self.redis = [ipaddress.ip_network(r) for r in plan["planned_values"]["outputs"].get("redis_ranges", {}).get("value") or []]

    def say(self, resource, what):
        self.findings.say(f"{self.name}: {resource['address']}", what)

    def of(self, kind):
        return [(r, r["values"]) for r in self.resources if r["type"] == kind]

    def check(self):
        network = (self.firewall, self.control_plane, self.autopilot, self.redis_itself)
        for rule in (*network, self.rights, self.secrets, self.bigquery, self.images, self.alerts, self.dashboards, self.protected):
            rule()

    def touches_redis(self, ranges):
        if not ranges:
            return True
        return any(ipaddress.ip_network(r, strict=False).overlaps(redis) for r in ranges for redis in self.redis)

    def firewall(self):
        for resource, values in self.of("google_compute_firewall"):
            if not values.get("allow"):
                continue
            if values.get("direction") == "EGRESS":
                if self.touches_redis(values.get("destination_ranges")) and not values.get("target_tags"):
                    self.say(resource, "lets every machine of the network reach Redis: name the nodes (target_tags)")
                continue
            sources = values.get("source_ranges") or []
            if any(map(is_world, sources)) or not (sources or values.get("source_tags") or values.get("source_service_accounts")):
                self.say(resource, "lets the world in: devices come through the load balancer, whose rules GKE makes, and Redis is for the nodes only")
        rules = [values for _, values in self.of("google_compute_firewall")]
        for_all = [values for values in rules if values.get("deny") and values.get("direction") == "EGRESS" and not values.get("target_tags")]
        if not any(self.touches_redis(values.get("destination_ranges")) for values in for_all):
            self.findings.say(self.name, "no firewall rule keeps the rest of the network from Redis")
        for redis in self.redis:
            if not redis.is_private:
                self.findings.say(self.name, f"Redis would have public addresses: {redis}")

    def control_plane(self):
        for resource, values in self.of("google_container_cluster"):
            networks = [block.get("cidr_block") for block in first(values, "master_authorized_networks_config", "cidr_blocks") or []]
            for network in networks:
                if network and is_world(network):
                    self.say(resource, f"the authorized network {network} lets the world reach the control plane")
            if first(values, "control_plane_endpoints_config", "ip_endpoints_config", "enabled") and not networks:
                self.say(resource, "the control plane has a public address that anybody reaches: name networks, or leave it to its DNS name")
            if not first(values, "private_cluster_config", "enable_private_nodes"):
                self.say(resource, "nodes would have public addresses")
            if first(values, "rbac_binding_config", "enable_insecure_binding_system_authenticated") is not False:
                self.say(resource, "a role could be bound to everybody with a Google account")

    def autopilot(self):
        pools = ("initial_node_count", "remove_default_node_pool", "node_pool", "node_config", "default_max_pods_per_node")
        refused = (*pools, "network_policy", "enable_intranode_visibility")
        for resource, values in self.of("google_container_cluster"):
            for argument in refused:
                if values.get(argument):
                    self.say(resource, f"an Autopilot cluster takes no {argument}")
            if not values.get("enable_autopilot"):
                self.say(resource, "is no Autopilot cluster")
            if re.fullmatch(r"[a-z]+-[a-z]+\d+-[a-z]", values.get("location") or ""):
                self.say(resource, f"an Autopilot cluster is regional: {values['location']} is a zone")
            if first(values, "cluster_autoscaling", "enabled") is not None:
                self.say(resource, "an Autopilot cluster takes no cluster_autoscaling.enabled")
            tags = first(values, "node_pool_auto_config", "network_tags", "tags") or []
            named = {tag for _, rule in self.of("google_compute_firewall") for tag in rule.get("target_tags") or []}
            if not named <= set(tags):
                self.say(resource, f"nodes have the tags {tags}, and firewall rules are for {sorted(named)}")

    def redis_itself(self):
        kinds = {
            "google_redis_cluster": ("redis_configs", "TRANSIT_ENCRYPTION_MODE_SERVER_AUTHENTICATION", ("persistence_config", "mode"), "AOF"),
            "google_memorystore_instance": ("engine_configs", "SERVER_AUTHENTICATION", ("persistence_config", "mode"), "AOF"),
            "google_redis_instance": ("redis_configs", "SERVER_AUTHENTICATION", ("persistence_config", "persistence_mode"), "RDB"),
        }
        found = [(kind, resource, values) for kind in kinds for resource, values in self.of(kind)]
        if len(found) != 1:
            self.findings.say(self.name, f"there are {len(found)} Redis, and not one")
        for kind, resource, values in found:
            configs, encrypted, path, mode = kinds[kind]
            if values.get("transit_encryption_mode") != encrypted:
                self.say(resource, f"Redis is not encrypted on the way: transit_encryption_mode must be {encrypted}")
            if (values.get(configs) or {}).get("maxmemory-policy") != "noeviction":
                self.say(resource, "maxmemory-policy must be noeviction: any other deletes messages")
            if first(values, *path) != mode:
                self.say(resource, f"Redis forgets everything with its nodes: persistence must be {mode}")
            if kind == "google_redis_instance" and not values.get("auth_enabled"):
                self.say(resource, "a standalone Redis must have a password (auth_enabled)")
            zones = values.get("zone_distribution_config") or []
            if zones and (zones[0].get("mode") == "SINGLE_ZONE") != bool(zones[0].get("zone")):
                self.say(resource, "a zone goes with SINGLE_ZONE, and only with it")
        policies = {values.get("service_class") for _, values in self.of("google_network_connectivity_service_connection_policy")}
        wanted = {"google_redis_cluster": {"gcp-memorystore-redis"}, "google_memorystore_instance": {"gcp-memorystore"}, "google_redis_instance": set()}
        for kind, resource, _ in found:
            if policies != wanted[kind]:
                self.say(resource, f"needs the service connection policy {sorted(wanted[kind])}, and there is {sorted(policies)}")

    def rights(self):
        for resource in self.resources:
            values, kind = resource["values"], resource["type"]
            if not re.search(r"_iam_(member|binding|policy)$", kind):
                continue
            role = values.get("role") or "an unknown role"
            allowed = PROJECT_ROLES if kind.startswith("google_project_") else ROLES
            if kind.endswith(("_binding", "_policy")):
                self.say(resource, f"{kind} takes rights away from those that it does not name: use {kind.rsplit('_', 1)[0]}_member")
            if role not in allowed:
                self.say(resource, f"{role} is more than anybody here needs{' on the whole project' if kind.startswith('google_project_') else ''}")
            for member in [values.get("member"), *(values.get("members") or [])]:
                if member in WORLD:
                    self.say(resource, f"{member} is the world")

    def secrets(self):
        for resource, values in self.of("google_secret_manager_secret_version"):
            if resource["name"] != "redis_ca" and values.get("secret_data_wo_version") is None:
                self.say(resource, "the secret would be in Terraform's state: use secret_data_wo, or let the user add the version")

        made = {resource.get("index") for resource, _ in self.of("google_secret_manager_secret")}
        readers = [(resource, str(resource.get("index"))) for resource, _ in self.of("google_secret_manager_secret_iam_member")]
        for secret, (variable, values) in BROKERS_ONLY.items():
            asked = self.plan.get("variables", {}).get(variable, {}).get("value") in values
            if asked != (secret in made):
                self.findings.say(self.name, f"the secret {secret} is {'not made' if asked else 'made'}, and {variable} says otherwise")
            for resource, index in readers:
                if index.startswith(f"{secret}-") and index not in (f"{secret}-broker-account", f"{secret}-broker-pods"):
                    self.say(resource, f"the secret {secret} is for brokers alone")

    def bigquery(self):
        tables = {table["name"]: table for table in json.loads((self.tree / "bigquery-adapter/sql/tables.json").read_text())}
        made = {values["table_id"]: (resource, values) for resource, values in self.of("google_bigquery_table")}
        for resource, values in self.of("google_bigquery_dataset"):
            for access in values.get("access") or []:
                who = access.get("special_group") or access.get("iam_member") or access.get("domain") or ""
                if who in WORLD or access.get("special_group") == "allAuthenticatedUsers":
                    self.say(resource, f"the dataset is public: {who}")
                else:
                    self.say(resource, "access blocks take the adapter's rights away: use google_bigquery_dataset_iam_member")
        for name, table in tables.items():
            if name not in made:
                self.findings.say(self.name, f"the adapter's table {name} is not made")
                continue
            resource, values = made[name]
            columns = {column["name"]: column["type"] for column in json.loads(values["schema"])}
            partition = first(values, "time_partitioning", "field")
            if json.loads(values["schema"]) != table["schema"]:
                self.say(resource, "its columns are not those of the adapter (bigquery-adapter/sql/tables.json)")
            if partition != table["partition_by"] or first(values, "time_partitioning", "type") != "DAY":
                self.say(resource, f"is not partitioned by the day of {table['partition_by']}, as the adapter does it")
            if columns.get(partition) != "TIMESTAMP":
                self.say(resource, f"is partitioned by {partition}, which is no TIMESTAMP")
            if (values.get("clustering") or []) != table["clustering"] or len(values.get("clustering") or []) > 4:
                self.say(resource, f"is not clustered by {table['clustering']}, as the adapter does it")
        views = {name: first(values, "view", "query") for name, (_, values) in made.items() if values.get("view")}
        written = set()
        for file in (self.tree / "bigquery-adapter/sql").glob("*.sql"):
            written |= set(re.findall(r"create or replace view `DATASET\.(\w+)`", file.read_text()))
        for name in sorted(written ^ set(views)):
            self.findings.say(self.name, f"the view {name} is in bigquery-adapter/sql and not in the plan, or the other way round")
        dataset = next((values["dataset_id"] for _, values in self.of("google_bigquery_dataset")), "")
        for name, query in views.items():
            for source in re.findall(r"`([^`]+)`", query or ""):
                if not source.endswith(tuple(f".{dataset}.{known}" for known in made)) or "DATASET" in source:
                    self.say(made[name][0], f"reads {source}, which nobody makes")

    def images(self):
        for resource, values in self.of("google_artifact_registry_repository"):
            if not first(values, "docker_config", "immutable_tags"):
                self.say(resource, "a tag could be moved to another image")
            if {policy.get("action") for policy in values.get("cleanup_policies") or []} != {"DELETE", "KEEP"}:
                self.say(resource, "old images are kept for ever, or the newest are not")

    def alerts(self):
        groups = yaml.safe_load((self.tree / "observability/alerts.yaml").read_text())["groups"]
        rules = {rule["alert"]: rule for group in groups for rule in group["rules"] if "alert" in rule}
        if any("record" in rule for group in groups for rule in group["rules"]):
            self.findings.say("observability/alerts.yaml", "a recording rule would have to be a Rules resource of Managed Prometheus: nothing makes one")
        made = {}
        for resource, values in self.of("google_monitoring_alert_policy"):
            condition = first(values, "conditions", "condition_prometheus_query_language") or [{}]
            made[condition[0].get("alert_rule")] = (resource, values, condition[0])
        for name in sorted(set(rules) ^ set(made), key=str):
            self.findings.say(self.name, f"the alert {name} is in observability/alerts.yaml and not in the plan, or the other way round")
        units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
        for name in set(rules) & set(made):
            resource, values, condition = made[name]
            seconds = sum(int(number) * units[unit] for number, unit in re.findall(r"(\d+)([smhd])", rules[name].get("for", "0s")))
            if condition["query"].strip() != rules[name]["expr"].strip() or condition["duration"] != f"{seconds}s":
                self.say(resource, "is not what observability/alerts.yaml says")
            if "{{" in json.dumps(values["documentation"]):
                self.say(resource, "its text has a template that Cloud Monitoring does not know")

    def dashboards(self):
        files = {path.stem for path in (self.tree / "observability/dashboards").glob("*.json")}
        made = {resource["index"]: (resource, json.loads(values["dashboard_json"])) for resource, values in self.of("google_monitoring_dashboard")}
        if files != set(made) or not files:
            self.findings.say(self.name, f"dashboards are {sorted(made)}, and observability/dashboards has {sorted(files)}")
        queries = []
        for resource, dashboard in made.values():
            layout = dashboard["mosaicLayout"]
            for tile in layout["tiles"]:
                title = tile["widget"]["title"]
                if not tile["widget"]["xyChart"]["dataSets"] or tile["xPos"] + tile["width"] > layout["columns"]:
                    self.say(resource, f"the panel {title!r} shows nothing, or is wider than the page")
                for data in tile["widget"]["xyChart"]["dataSets"]:
                    query = data["timeSeriesQuery"]["prometheusQuery"]
                    queries.append({"record": f"panel:number{len(queries)}", "expr": query})
                    if "$" in query:
                        self.say(resource, f"the panel {title!r} has a variable of Grafana left: {query}")
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            yaml.safe_dump({"groups": [{"name": "panels", "rules": queries}]}, file)
            file.flush()
            run = subprocess.run(["promtool", "check", "rules", file.name], capture_output=True, text=True)
        if run.returncode:
            self.findings.say(self.name, f"a query of a dashboard is no PromQL: {run.stdout}{run.stderr}")

    def protected(self):
        """What holds data cannot be destroyed by a slip, unless the user says so."""
        wanted = self.plan.get("variables", {}).get("deletion_protection", {}).get("value", True)
        arguments = {
            "google_container_cluster": "deletion_protection",
            "google_redis_cluster": "deletion_protection_enabled",
            "google_memorystore_instance": "deletion_protection_enabled",
            "google_redis_instance": "deletion_protection",
            "google_secret_manager_secret": "deletion_protection",
        }
        for kind, argument in arguments.items():
            for resource, values in self.of(kind):
                if values.get(argument) is not wanted:
                    self.say(resource, f"{argument} is not what the variable deletion_protection says")
        for resource, values in self.of("google_bigquery_table"):
            if not values.get("view") and values.get("deletion_protection") is not wanted:
                self.say(resource, "deletion_protection is not what the variable says")


def main():
    tree, plan = Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None
    findings = Findings()
    if plan is None:
        check_files(tree, findings)
        said = "files: every variable and output is described"
    else:
        rules = PlanRules(tree, Path(plan).stem, json.loads(Path(plan).read_text()), findings)
        rules.check()
        said = f"{rules.name}: {len(rules.resources)} resources are as they must be"
    for where, what in findings.all:
        print(f"{where}: {what}")
    if findings.all:
        sys.exit(f"terraform_rules: {len(findings.all)} findings")
    print(said)


if __name__ == "__main__":
    main()

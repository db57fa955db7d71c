#!/usr/bin/env python3
"""Writes the Grafana dashboards beside this file: `observability/dashboards/generate.py`, without any package.

A dashboard is a list of rows, a row is a title and its panels, a panel is a title, a unit and its lines: (legend, expression). `make check-cloud` holds the JSON
files against what this makes, and every expression against docs/metrics.md and a Prometheus that has scraped a real cluster.
"""

import json
import pathlib

HERE = pathlib.Path(__file__).parent
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
HEIGHT = 8
SHORT = "short"

ALL = 'job="broker"'
ONE = 'job="broker",instance=~"$replica"'
ADAPTER = 'job="adapter",instance=~"$adapter"'


def rate(metric, labels=ALL, by=None):
    """Events a second, over all series or by labels."""
    inner = f"rate({metric}{{{labels}}}[$__rate_interval])"
    return f"sum by ({by}) ({inner})" if by else f"sum({inner})"


def total(metric, labels=ALL, by=None):
    """A gauge, over all series or by labels."""
    return f"sum by ({by}) ({metric}{{{labels}}})" if by else f"sum({metric}{{{labels}}})"


def graph(title, unit, *lines, width=8, help="", stacked=False):
    return {"title": title, "unit": unit, "lines": lines, "width": width, "kind": "timeseries", "help": help, "stacked": stacked}


def figure(title, unit, expression, width=4, help="", bad_above=None, bad_below=None):
    return {"title": title, "unit": unit, "lines": [("", expression)], "width": width, "kind": "stat", "help": help, "bad_above": bad_above, "bad_below": bad_below}


CLUSTER = (
    "Dunlin cluster",
    "dunlin-cluster",
    [],
    [
        (
            "Is it well?",
            [
                figure("Replicas ready", SHORT, total("dunlin_ready"), bad_below=1),
                figure("Replicas that see each other", SHORT, f"min(dunlin_cluster_replicas{{{ALL}}})"),
                figure("Clients connected", SHORT, total("dunlin_clients_connected")),
                figure("Redis reached", "percentunit", f"min(dunlin_redis_connected{{{ALL}}})", bad_below=1),
                figure("Redis memory used", "percentunit", f"max(dunlin_redis_memory_ratio{{{ALL}}})", bad_above=0.8),
                figure("Batches not acknowledged", SHORT, total("dunlin_cluster_commits_held"), bad_above=1),
            ],
        ),
        (
            "Traffic",
            [
                graph("Messages in", "cps", ("QoS {{qos}}", rate("dunlin_publishes_received_total", by="qos")), stacked=True),
                graph("Messages out", "cps", ("QoS {{qos}}", rate("dunlin_publishes_sent_total", by="qos")), stacked=True),
                graph("Bytes", "Bps", ("in", rate("dunlin_received_bytes_total")), ("out", rate("dunlin_sent_bytes_total"))),
                graph("Clients by replica", SHORT, ("{{instance}}", total("dunlin_clients_connected", by="instance")), stacked=True),
                graph(
                    "Connects and refusals a second",
                    "cps",
                    ("connected", rate("dunlin_connections_total")),
                    ("refused: {{reason}}", rate("dunlin_connections_refused_total", by="reason")),
                ),
                graph(
                    "Ends that say something",
                    "cps",
                    ("taken over", rate("dunlin_takeovers_total")),
                    ("silent", rate("dunlin_keep_alive_timeouts_total")),
                    ("broke the protocol", rate("dunlin_protocol_errors_total")),
                ),
            ],
        ),
        (
            "What is lost or held back",
            [
                graph("Not delivered, by reason", "cps", ("{{reason}}", rate("dunlin_publishes_dropped_total", by="reason"))),
                graph(
                    "Queues and lanes",
                    "cps",
                    ("queue of a session full", rate("dunlin_cluster_queue_full_total")),
                    ("lane full", rate("dunlin_cluster_lane_dropped_total")),
                    ("refused by rules", rate("dunlin_publishes_refused_total")),
                    ("retained: no room", rate("dunlin_retained_refused_total")),
                ),
                graph(
                    "On the way to Redis",
                    "bytes",
                    ("{{instance}}", total("dunlin_store_pending_bytes", by="instance")),
                    ("bound", f'max(dunlin_limit{{{ALL},limit="store_pending_bytes"}})'),
                    help="At the bound publishers are not read from.",
                ),
            ],
        ),
        (
            "Redis",
            [
                graph("PING", "s", ("{{instance}}", f"max by (instance) (dunlin_redis_ping_seconds{{{ALL}}})")),
                graph(
                    "Memory",
                    "bytes",
                    ("used", f"max(dunlin_redis_memory_used_bytes{{{ALL}}})"),
                    ("allowed", f"max(dunlin_redis_memory_limit_bytes{{{ALL}}})"),
                ),
                graph("Requests without an answer", SHORT, ("{{instance}}", total("dunlin_redis_pending_requests", by="instance"))),
                graph(
                    "Connections and failovers",
                    SHORT,
                    ("made anew", f"sum(increase(dunlin_redis_reconnects_total{{{ALL}}}[$__rate_interval]))"),
                    ("failovers", f"max(increase(dunlin_redis_failovers_total{{{ALL}}}[$__rate_interval]))"),
                ),
                graph(
                    "Requests a second",
                    "cps",
                    ("changes", rate("dunlin_cluster_requests_total")),
                    ("appends to queues", rate("dunlin_cluster_appends_total")),
                    ("claims", rate("dunlin_cluster_claims_total")),
                ),
                graph(
                    "Between replicas",
                    "cps",
                    ("at most once", rate("dunlin_cluster_messages_out_total")),
                    ("acknowledged", rate("dunlin_cluster_inbox_messages_out_total")),
                    ("frames missing", rate("dunlin_cluster_frames_missing_total")),
                ),
            ],
        ),
        (
            "Leases and tables",
            [
                graph("Age of the lease", "s", ("{{instance}}", f"max by (instance) (dunlin_cluster_lease_age_seconds{{{ALL}}})")),
                graph(
                    "Wait for other replicas, each",
                    "s",
                    ("SUBACK, retained", f"{rate('dunlin_cluster_barrier_wait_seconds_total')} / {rate('dunlin_cluster_barriers_total')}"),
                ),
                graph(
                    "Replicas that died or were cut off",
                    SHORT,
                    ("cleared away", f"sum(increase(dunlin_cluster_reaped_total{{{ALL}}}[$__rate_interval]))"),
                    ("cut off", f"sum(increase(dunlin_cluster_suspended_total{{{ALL}}}[$__rate_interval]))"),
                    ("joined anew", f"sum(increase(dunlin_cluster_rejoined_total{{{ALL}}}[$__rate_interval]))"),
                ),
            ],
        ),
        (
            "Into the warehouse",
            [
                graph("Appended to taps", "cps", ("messages", rate("dunlin_tap_messages_total"))),
                graph("Behind", "s", ("oldest message not stored", 'max(dunlin_adapter_tap_lag_seconds{job="adapter"})')),
                graph(
                    "Taps at their bound",
                    SHORT,
                    ("waiting for room", total("dunlin_tap_waiting")),
                    ("QoS 0 left out, a second", f"{rate('dunlin_tap_skipped_total')} + {rate('dunlin_tap_dropped_total')}"),
                ),
            ],
        ),
    ],
)

REPLICA = (
    "Dunlin replica",
    "dunlin-replica",
    [("replica", 'label_values(dunlin_build_info{job="broker"}, instance)', "Replica", False)],
    [
        (
            "State",
            [
                figure("Ready", SHORT, total("dunlin_ready", ONE), bad_below=1),
                figure("Stopping", SHORT, total("dunlin_draining", ONE), bad_above=1),
                figure("Clients", SHORT, total("dunlin_clients_connected", ONE)),
                figure("Of the limit of connections", "percentunit", f'sum(dunlin_sockets_open{{{ONE}}}) / sum(dunlin_limit{{{ONE},limit="connections"}})', bad_above=0.85),
                figure("Running for", "s", f"time() - min(process_start_time_seconds{{{ONE}}})"),
                figure("Age of the lease", "s", f"max(dunlin_cluster_lease_age_seconds{{{ONE}}})", bad_above=4),
            ],
        ),
        (
            "The process",
            [
                graph("CPU, cores", SHORT, ("used", rate("process_cpu_seconds_total", ONE))),
                graph("Memory", "bytes", ("in use", total("process_resident_memory_bytes", ONE)), ("allowed", total("dunlin_memory_limit_bytes", ONE))),
                graph("Files", SHORT, ("open", total("process_open_fds", ONE)), ("sockets", total("dunlin_sockets_open", ONE))),
                graph(
                    "Delay of the workers' timers",
                    "s",
                    ("half are later", f"histogram_quantile(0.5, sum by (le) (rate(dunlin_worker_delay_seconds_bucket{{{ONE}}}[$__rate_interval])))"),
                    ("one in a hundred is later", f"histogram_quantile(0.99, sum by (le) (rate(dunlin_worker_delay_seconds_bucket{{{ONE}}}[$__rate_interval])))"),
                    help="How late a thread comes round to its timers. Clients see it as latency.",
                ),
                graph("CPU for each message, in or out", "s", ("", f"{rate('process_cpu_seconds_total', ONE)} / ({rate('dunlin_publishes_received_total', ONE)} + {rate('dunlin_publishes_sent_total', ONE)})")),
                graph("Threads and readers", SHORT, ("readers that hold their publishers", total("dunlin_clients_congested", ONE)), ("slow receivers, a second", rate("dunlin_slow_receivers_total", ONE))),
            ],
        ),
        (
            "Clients",
            [
                graph("By listener and version", SHORT, ("{{listener}}, {{version}}", total("dunlin_clients_by_listener", ONE, by="listener, version")), stacked=True),
                graph("Connects and refusals a second", "cps", ("connected", rate("dunlin_connections_total", ONE)), ("refused: {{reason}}", rate("dunlin_connections_refused_total", ONE, by="reason"))),
                graph("At the door", SHORT, ("handshakes under way", total("dunlin_handshakes", ONE)), ("had to wait, a second", rate("dunlin_accepts_delayed_total", ONE))),
                graph("Protocol errors", "cps", ("{{reason}}", rate("dunlin_protocol_errors_total", ONE, by="reason")), width=24),
            ],
        ),
        (
            "Messages",
            [
                graph("In", "cps", ("QoS {{qos}}", rate("dunlin_publishes_received_total", ONE, by="qos")), stacked=True),
                graph("Out", "cps", ("QoS {{qos}}", rate("dunlin_publishes_sent_total", ONE, by="qos")), ("once more", rate("dunlin_retransmissions_total", ONE))),
                graph("Not delivered", "cps", ("{{reason}}", rate("dunlin_publishes_dropped_total", ONE, by="reason"))),
                graph("Packets", "cps", ("in", rate("dunlin_packets_received_total", ONE)), ("out", rate("dunlin_packets_sent_total", ONE)), ("acknowledgements out", rate("dunlin_acknowledgements_sent_total", ONE))),
                graph("To other replicas", "cps", ("at most once", rate("dunlin_cluster_messages_out_total", ONE)), ("acknowledged", rate("dunlin_cluster_inbox_messages_out_total", ONE))),
                graph("From other replicas", "cps", ("at most once", rate("dunlin_cluster_messages_in_total", ONE)), ("acknowledged", rate("dunlin_cluster_inbox_messages_in_total", ONE))),
            ],
        ),
        (
            "What it keeps",
            [
                graph("Sessions", SHORT, ("all here", total("dunlin_sessions", ONE)), ("persistent, in the cluster", total("dunlin_sessions_stored", ONE))),
                graph("Subscriptions", SHORT, ("subscriptions", total("dunlin_subscriptions", ONE)), ("shared groups", total("dunlin_shared_groups", ONE))),
                graph("Retained messages", SHORT, ("messages", total("dunlin_retained_messages", ONE))),
            ],
        ),
    ],
)

ADAPTERS = (
    "Dunlin adapter",
    "dunlin-adapter",
    [("adapter", 'label_values(dunlin_adapter_build_info{job="adapter"}, instance)', "Adapter", True)],
    [
        (
            "Is it well?",
            [
                figure("Adapters ready", SHORT, total("dunlin_adapter_ready", ADAPTER), bad_below=1),
                figure("Partitions read", SHORT, total("dunlin_adapter_tap_partitions", 'job="adapter"')),
                figure("of", SHORT, 'max(dunlin_adapter_tap_partitions_configured{job="adapter"})'),
                figure("Behind", "s", f"max(dunlin_adapter_tap_lag_seconds{{{ADAPTER}}})", bad_above=300),
                figure("Last stored", "s", f"time() - max(dunlin_adapter_stored_timestamp_seconds{{{ADAPTER}}})", help="Seconds ago."),
                figure("Dead letters in a day", SHORT, f"sum(increase(dunlin_adapter_dead_letters_total{{{ADAPTER}}}[1d]))", bad_above=1),
            ],
        ),
        (
            "Rows",
            [
                graph("Read", "cps", ("messages", rate("dunlin_adapter_received_messages_total", ADAPTER))),
                graph("Confirmed by BigQuery", "cps", ("{{table}}", rate("dunlin_adapter_bigquery_rows_total", ADAPTER, by="table")), stacked=True),
                graph("Rows of a request", SHORT, ("{{table}}", f"{rate('dunlin_adapter_bigquery_rows_total', ADAPTER, by='table')} / {rate('dunlin_adapter_bigquery_appends_total', ADAPTER, by='table')}")),
                graph("Behind, messages", SHORT, ("{{instance}}", total("dunlin_adapter_tap_lag_messages", ADAPTER, by="instance")), stacked=True),
                graph("Behind, seconds", "s", ("{{instance}}", f"max by (instance) (dunlin_adapter_tap_lag_seconds{{{ADAPTER}}})")),
                graph("Behind, bytes in Redis", "bytes", ("{{instance}}", total("dunlin_adapter_tap_lag_bytes", ADAPTER, by="instance")), stacked=True),
            ],
        ),
        (
            "What goes wrong",
            [
                graph("Attempts repeated", "cps", ("{{cause}}", rate("dunlin_adapter_bigquery_retries_total", ADAPTER, by="cause"))),
                graph("Dead letters", "cps", ("{{place}}", rate("dunlin_adapter_dead_letters_total", ADAPTER, by="place"))),
                graph("Parts that do not work", SHORT, ("{{part}}", f"max by (part) (dunlin_adapter_problem{{{ADAPTER}}})")),
            ],
        ),
        (
            "Parquet files",
            [
                graph("Rows made durable", "cps", ("rows", rate("dunlin_adapter_committed_rows_total", ADAPTER))),
                graph("A commit takes", "s", ("99 of 100", f"histogram_quantile(0.99, sum by (le) (rate(dunlin_adapter_commit_duration_seconds_bucket{{{ADAPTER}}}[$__rate_interval])))")),
                graph("Failures", "cps", ("commits", rate("dunlin_adapter_commit_failures_total", ADAPTER)), ("files", rate("dunlin_adapter_roll_failures_total", ADAPTER))),
            ],
        ),
        (
            "The process",
            [
                graph("CPU, cores", SHORT, ("{{instance}}", rate("process_cpu_seconds_total", ADAPTER, by="instance"))),
                graph("Memory", "bytes", ("{{instance}}", total("process_resident_memory_bytes", ADAPTER, by="instance"))),
                graph("CPU for each message", "s", ("", f"{rate('process_cpu_seconds_total', ADAPTER)} / {rate('dunlin_adapter_received_messages_total', ADAPTER)}")),
            ],
        ),
    ],
)

FLEET = (
    "Dunlin fleet",
    "dunlin-fleet",
    [],
    [
        (
            "Devices",
            [
                figure("Connected", SHORT, total("dunlin_clients_connected")),
                figure("Sessions that wait for their client", SHORT, f"max(dunlin_sessions_stored{{{ALL}}})", help="Persistent sessions of the whole cluster, connected or not."),
                figure("Messages a second", "cps", rate("dunlin_publishes_received_total")),
                figure("A device sends every", "s", f"sum(dunlin_clients_connected{{{ALL}}}) / {rate('dunlin_publishes_received_total')}", help="On average."),
                figure("Bytes of a payload", "bytes", f"{rate('dunlin_publishes_received_payload_bytes_total')} / {rate('dunlin_publishes_received_total')}", help="On average."),
                figure("Messages in a day", SHORT, f"sum(increase(dunlin_publishes_received_total{{{ALL}}}[1d]))"),
            ],
        ),
        (
            "Coming and going",
            [
                graph("Connected", SHORT, ("now", total("dunlin_clients_connected")), ("a week ago", f"sum(dunlin_clients_connected{{{ALL}}} offset 1w)"), width=12),
                graph("Share of the fleet that connects each minute", "percentunit", ("", f"60 * {rate('dunlin_connections_total')} / {total('dunlin_clients_connected')}"), width=12),
                graph("Versions of MQTT", SHORT, ("{{version}}", total("dunlin_clients_by_listener", by="version")), stacked=True),
                graph("Listeners", SHORT, ("{{listener}}", total("dunlin_clients_by_listener", by="listener")), stacked=True),
                graph("Wills published", "cps", ("", rate("dunlin_wills_published_total")), help="Devices that vanished without goodbye."),
            ],
        ),
        (
            "What they may not do",
            [
                graph("Refused at the door", "cps", ("{{reason}}", rate("dunlin_connections_refused_total", by="reason"))),
                graph("Publishes refused by rules", "cps", ("", rate("dunlin_publishes_refused_total"))),
                graph("Certificates expire in", "s", ("{{listener}}", f"min by (listener) (dunlin_certificate_expires_timestamp_seconds{{{ALL}}}) - time()")),
            ],
        ),
        (
            "What the fleet costs",
            [
                graph("CPU of all replicas, cores", SHORT, ("", rate("process_cpu_seconds_total")), help="See docs/sizing.md."),
                graph("CPU for a million messages in", "s", ("", f"1e6 * {rate('process_cpu_seconds_total')} / {rate('dunlin_publishes_received_total')}")),
                graph("Memory of a client", "bytes", ("", f"sum(process_resident_memory_bytes{{{ALL}}}) / {total('dunlin_clients_connected')}"), help="All of the replicas' memory over all clients."),
            ],
        ),
    ],
)


def panel(number, spec, x, y):
    defaults = {"unit": spec["unit"], "min": 0}
    made = {
        "id": number,
        "title": spec["title"],
        "type": spec["kind"],
        "datasource": SOURCE,
        "gridPos": {"h": HEIGHT if spec["kind"] == "timeseries" else HEIGHT // 2, "w": spec["width"], "x": x, "y": y},
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + index), "datasource": SOURCE, "expr": expression, "legendFormat": legend or spec["title"]}
            for index, (legend, expression) in enumerate(spec["lines"])
        ],
    }
    if spec["help"]:
        made["description"] = spec["help"]
    if spec["kind"] == "timeseries":
        stacking = {"mode": "normal" if spec["stacked"] else "none"}
        defaults["custom"] = {"fillOpacity": 20 if spec["stacked"] else 0, "showPoints": "never", "stacking": stacking}
        made["options"] = {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}}
    else:
        made["options"] = {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value", "graphMode": "area"}
        steps = [{"color": "green", "value": None}]
        if spec["bad_above"] is not None:
            steps.append({"color": "red", "value": spec["bad_above"]})
        if spec["bad_below"] is not None:
            steps = [{"color": "red", "value": None}, {"color": "green", "value": spec["bad_below"]}]
        defaults["thresholds"] = {"mode": "absolute", "steps": steps}
    return made


def dashboard(title, uid, variables, rows):
    panels, number, y = [], 0, 0
    for row, specs in rows:
        number += 1
        panels.append({"id": number, "title": row, "type": "row", "collapsed": False, "gridPos": {"h": 1, "w": 24, "x": 0, "y": y}, "panels": []})
        y += 1
        x = 0
        for spec in specs:
            if x + spec["width"] > 24:
                x, y = 0, y + HEIGHT
            number += 1
            panels.append(panel(number, spec, x, y))
            x += spec["width"]
        y += max(HEIGHT if spec["kind"] == "timeseries" else HEIGHT // 2 for spec in specs)
    templating = [{"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "hide": 0}]
    for name, query, label, several in variables:
        templating.append(
            {
                "name": name,
                "label": label,
                "type": "query",
                "datasource": SOURCE,
                "query": {"query": query, "refId": name},
                "refresh": 2,
                "sort": 1,
                "multi": several,
                "includeAll": several,
                "hide": 0,
            }
        )
    return {
        "uid": uid,
        "title": title,
        "tags": ["dunlin"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "",
        "templating": {"list": templating},
        "annotations": {"list": []},
        "links": [{"type": "dashboards", "tags": ["dunlin"], "title": "Dunlin", "asDropdown": False, "keepTime": True}],
        "panels": panels,
    }


def main():
    for spec in [CLUSTER, REPLICA, ADAPTERS, FLEET]:
        name = spec[1].removeprefix("dunlin-") + ".json"
        (HERE / name).write_text(json.dumps(dashboard(*spec), indent=1) + "\n")


if __name__ == "__main__":
    main()

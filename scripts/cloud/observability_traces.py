"""A collector of OpenTelemetry traces, and what is expected of those of a publish that goes through broker, tap and adapter."""

import http.server
import threading
import time

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse

SAMPLED = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", "01")
UNSAMPLED = ("aaaa2f3577b34da6a3ce929d0e0eaaaa", "00f067aa0ba902b8", "00")
TOPIC = "fleet/traced"
# Spans of each program, with the span that each is a part of.
EXPECTED = {
    "broker": {"publish": None, "route": "publish", "durable": "publish"},
    "bigquery-adapter": {"store": None, "append": "store", "commit": "store"},
}


def traceparent(trace):
    return "00-" + "-".join(trace)


class Collector:
    """OTLP over HTTP on a port of its own."""

    def __init__(self):
        spans = self.spans = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                good = self.path == "/v1/traces" and self.headers["Content-Type"] == "application/x-protobuf"
                if good:
                    for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                        about = {attribute.key: attribute.value.string_value for attribute in resource.resource.attributes}
                        for scope in resource.scope_spans:
                            spans.extend((about, span) for span in scope.spans)
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200 if good else 400)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def count(self):
        return len(self.spans)


def problems(spans):
    """What is wrong with the spans of one publish that was sampled, beside many that were not."""
    for about, span in spans:
        if span.trace_id.hex() != SAMPLED[0]:
            yield f"{about['service.name']} traces what nobody has sampled: {span.name}"
    for program, names in EXPECTED.items():
        there = {span.name: (about, span) for about, span in spans if about.get("service.name") == program}
        if set(there) != set(names):
            yield f"{program} has the spans {sorted(there)}, not {sorted(names)}"
            continue
        for name, whole in names.items():
            about, span = there[name]
            parent = bytes.fromhex(SAMPLED[1]) if whole is None else there[whole][1].span_id
            if span.parent_span_id != parent:
                yield f"{program}: the parent of {name} is {span.parent_span_id.hex()}"
            outer = span if whole is None else there[whole][1]
            if not outer.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano <= outer.end_time_unix_nano:
                yield f"{program}: {name} is not within {whole}"
            if span.end_time_unix_nano > time.time_ns() or span.trace_state != "vendor=1":
                yield f"{program}: {name} ends in the future, or has lost its tracestate"
            if not about.get("service.instance.id") or about.get("service.namespace") != "dunlin":
                yield f"{program}: it does not say who it is: {about}"
        attributes = {attribute.key: attribute.value for attribute in there[next(iter(names))][1].attributes}
        if attributes["messaging.destination.name"].string_value != TOPIC:
            yield f"{program}: the topic is {attributes['messaging.destination.name']}"
    published = {attribute.key: attribute.value.int_value for about, span in spans if span.name == "publish" for attribute in span.attributes}
    if published.get("dunlin.receivers.taps") != 1 or published.get("dunlin.receivers.queues") != 1:
        yield f"the publish went to a tap and a queue, and the span says {published}"

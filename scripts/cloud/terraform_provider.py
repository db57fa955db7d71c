#!/usr/bin/env python3
"""Stands in for the google provider, so that the real `terraform` validates, plans and tests where there is no cloud and no provider.

It speaks Terraform's plugin protocol (version 5), knows the provider's schema from the file that TERRAFORM_SCHEMA names (see terraform_schema.py), and
makes nothing anywhere: what the real provider would compute is unknown in a plan and made up in an apply. Terraform itself refuses what the schema does not
have, lacks what it requires, or has another type; this refuses values that the documentation does not list. Terraform starts it by itself;
TF_DISABLE_PLUGIN_TLS must be set.
"""
import json
import os
import sys
import tempfile
import threading
from concurrent import futures

import grpc
import msgpack
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

# Messages of the protocol, as far as they are needed: field = (number, type), * for repeated.
MESSAGES = {
    "Empty": {},
    "DynamicValue": {"msgpack": (1, "bytes"), "json": (2, "bytes")},
    "Step": {"attribute_name": (1, "string"), "element_key_string": (2, "string"), "element_key_int": (3, "int64")},
    "Path": {"steps": (1, "*Step")},
    "Diagnostic": {"severity": (1, "int32"), "summary": (2, "string"), "detail": (3, "string"), "attribute": (4, "Path")},
    "RawState": {"json": (1, "bytes")},
    "Attribute": {
        "name": (1, "string"),
        "type": (2, "bytes"),
        "required": (4, "bool"),
        "optional": (5, "bool"),
        "computed": (6, "bool"),
        "write_only": (10, "bool"),
    },
    "NestedBlock": {"type_name": (1, "string"), "block": (2, "Block"), "nesting": (3, "int32"), "min_items": (4, "int64"), "max_items": (5, "int64")},
    "Block": {"version": (1, "int64"), "attributes": (2, "*Attribute"), "block_types": (3, "*NestedBlock")},
    "Schema": {"version": (1, "int64"), "block": (2, "Block")},
    "Entry": {"key": (1, "string"), "value": (2, "Schema")},
    "SchemaAnswer": {"provider": (1, "Schema"), "resources": (2, "*Entry"), "data": (3, "*Entry"), "diagnostics": (4, "*Diagnostic")},
    "TypedConfig": {"type_name": (1, "string"), "config": (2, "DynamicValue")},
    "Config": {"config": (1, "DynamicValue")},
    "Diagnostics": {"diagnostics": (1, "*Diagnostic")},
    "UpgradeRequest": {"type_name": (1, "string"), "version": (2, "int64"), "raw": (3, "RawState")},
    "StateRequest": {"type_name": (1, "string"), "state": (2, "DynamicValue")},
    "State": {"state": (1, "DynamicValue"), "diagnostics": (2, "*Diagnostic")},
    "PlanRequest": {"type_name": (1, "string"), "prior": (2, "DynamicValue"), "proposed": (3, "DynamicValue")},
    "PlanAnswer": {"planned": (1, "DynamicValue"), "legacy": (5, "bool")},
    "ApplyRequest": {"type_name": (1, "string"), "prior": (2, "DynamicValue"), "planned": (3, "DynamicValue")},
    "ApplyAnswer": {"state": (1, "DynamicValue"), "legacy": (4, "bool")},
    "Health": {"status": (1, "int32")},
}


def message_classes():
    field = descriptor_pb2.FieldDescriptorProto
    scalars = {"string": field.TYPE_STRING, "bytes": field.TYPE_BYTES, "int64": field.TYPE_INT64, "int32": field.TYPE_INT32, "bool": field.TYPE_BOOL}
    file = descriptor_pb2.FileDescriptorProto(name="provider.proto", package="provider", syntax="proto3")
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for field_name, (number, kind) in fields.items():
            label = field.LABEL_REPEATED if kind.startswith("*") else field.LABEL_OPTIONAL
            kind = kind.lstrip("*")
            if kind in scalars:
                message.field.add(name=field_name, number=number, label=label, type=scalars[kind])
            else:
                message.field.add(name=field_name, number=number, label=label, type=field.TYPE_MESSAGE, type_name=f".provider.{kind}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"provider.{name}")) for name in MESSAGES}


M = message_classes()
# Terraform's unknown value.
UNKNOWN = msgpack.ExtType(0, b"\0")


def is_unknown(value):
    return isinstance(value, msgpack.ExtType)


def decoded(value):
    if value.msgpack:
        return msgpack.unpackb(value.msgpack, raw=False, strict_map_key=False, ext_hook=lambda code, data: UNKNOWN)
    return json.loads(value.json) if value.json else None


def encoded(value):
    return M["DynamicValue"](msgpack=msgpack.packb(value, use_bin_type=True))


def write_only(name):
    return name.endswith("_wo")


def block_message(block):
    message = M["Block"]()
    for name, attribute in sorted(block["attributes"].items()):
        flags = {flag: attribute.get(flag, False) for flag in ("required", "optional", "computed")}
        message.attributes.add(name=name, type=json.dumps(attribute["type"]).encode(), write_only=write_only(name), **flags)
    for name, nested in sorted(block["block_types"].items()):
        nesting = {"list": 2, "set": 3}[nested["nesting_mode"]]
        entry = message.block_types.add(type_name=name, nesting=nesting, min_items=nested.get("min_items", 0), max_items=nested.get("max_items", 0))
        entry.block.CopyFrom(block_message(nested["block"]))
    return message


def schema_message(schema):
    return M["Schema"](block=block_message(schema["block"]))


def walk(block, value, attribute_of):
    """Every attribute of a block and of the blocks in it is what `attribute_of(name, attribute, value)` says."""
    if value is None or is_unknown(value):
        return value
    for name, attribute in block["attributes"].items():
        value[name] = attribute_of(name, attribute, value.get(name))
    for name, nested in block["block_types"].items():
        inner = value.get(name)
        if isinstance(inner, list):
            value[name] = [walk(nested["block"], item, attribute_of) for item in inner]
    return value


def texts(block, value, path=()):
    """Every text that is known in a block and in the blocks in it: where it is, its attribute, itself."""
    if not isinstance(value, dict):
        return
    for name, attribute in block["attributes"].items():
        if isinstance(value.get(name), str):
            yield (*path, name), attribute, value[name]
    for name, nested in block["block_types"].items():
        for number, inner in enumerate(value.get(name) or [] if not is_unknown(value.get(name)) else []):
            # Members of a set have no number that Terraform would know.
            yield from texts(nested["block"], inner, (*path, name, number) if nested["nesting_mode"] == "list" else (*path, name))


def made_up(kind, name):
    """A value of this type, as an apply or a data source would bring it. Lists have one element, so that the first one can be asked for."""
    if kind == "string":
        return f"made-up-{name}"
    if kind in ("number", "bool"):
        return {"number": 1, "bool": False}[kind]
    if kind[0] in ("list", "set"):
        return [made_up(kind[1], name)]
    if kind[0] == "map":
        return {}
    return {field: made_up(of, field) for field, of in kind[1].items()}


def settled(kind, name, value):
    """The value with made-up ones for what is unknown in it."""
    if is_unknown(value):
        return made_up(kind, name)
    if isinstance(kind, list) and kind[0] in ("list", "set") and isinstance(value, list):
        return [settled(kind[1], name, item) for item in value]
    if isinstance(kind, list) and kind[0] == "map" and isinstance(value, dict):
        return {key: settled(kind[1], key, item) for key, item in value.items()}
    if isinstance(kind, list) and kind[0] == "object" and isinstance(value, dict):
        return {key: settled(kind[1][key], key, item) for key, item in value.items()}
    return value


class Provider:
    def __init__(self, schema):
        self.schema = schema
        self.resources = schema["resource_schemas"]
        self.data = schema["data_source_schemas"]

    def get_schema(self, _):
        answer = M["SchemaAnswer"](provider=schema_message(self.schema["provider_schema"]))
        for schemas, entries in ((self.resources, answer.resources), (self.data, answer.data)):
            for name, schema in schemas.items():
                entries.add(key=name).value.CopyFrom(schema_message(schema))
        return answer

    def validate(self, request):
        answer = M["Diagnostics"]()
        schemas = self.resources if request.type_name in self.resources else self.data
        for path, attribute, value in texts(schemas[request.type_name]["block"], decoded(request.config)):
            values = attribute.get("values")
            if values and value not in values:
                detail = f'{request.type_name}: {path[-1]} = "{value}" is none of {", ".join(values)}.'
                found = answer.diagnostics.add(severity=1, summary="Value is not possible", detail=detail)
                for step in path:
                    found.attribute.steps.add(**({"attribute_name": step} if isinstance(step, str) else {"element_key_int": step}))
        return answer

    def upgrade(self, request):
        block = self.resources[request.type_name]["block"]

        def complete(block, value):
            whole = {name: value.get(name) for name in block["attributes"]}
            for name, nested in block["block_types"].items():
                whole[name] = [complete(nested["block"], item) for item in value.get(name) or []]
            return whole

        return M["State"](state=encoded(complete(block, json.loads(request.raw.json))))

    def plan(self, request):
        proposed, prior = decoded(request.proposed), decoded(request.prior)

        def planned(name, attribute, value):
            if write_only(name):
                return None
            if value is None and attribute.get("computed"):
                return UNKNOWN if prior is None else prior.get(name)
            return value

        return M["PlanAnswer"](planned=encoded(walk(self.resources[request.type_name]["block"], proposed, planned)), legacy=True)

    def apply(self, request):
        planned = decoded(request.planned)
        state = walk(self.resources[request.type_name]["block"], planned, lambda name, attribute, value: settled(attribute["type"], name, value))
        return M["ApplyAnswer"](state=encoded(state), legacy=True)

    def read_data(self, request):
        def read(name, attribute, value):
            return made_up(attribute["type"], name) if value is None and attribute.get("computed") else value

        return M["State"](state=encoded(walk(self.data[request.type_name]["block"], decoded(request.config), read)))

    def methods(self):
        return {
            "GetSchema": ("Empty", self.get_schema),
            "PrepareProviderConfig": ("Config", lambda request: M["Config"](config=request.config)),
            "ValidateResourceTypeConfig": ("TypedConfig", self.validate),
            "ValidateDataSourceConfig": ("TypedConfig", self.validate),
            "Configure": ("Empty", lambda _: M["Diagnostics"]()),
            "UpgradeResourceState": ("UpgradeRequest", self.upgrade),
            "ReadResource": ("StateRequest", lambda request: M["State"](state=request.state)),
            "PlanResourceChange": ("PlanRequest", self.plan),
            "ApplyResourceChange": ("ApplyRequest", self.apply),
            "ReadDataSource": ("TypedConfig", self.read_data),
            "Stop": ("Empty", lambda _: M["Empty"]()),
        }


class Services(grpc.GenericRpcHandler):
    def __init__(self, provider):
        self.methods = provider.methods()

    def service(self, call):
        service, method = call.method.strip("/").split("/")
        if service == "tfplugin5.Provider" and method in self.methods:
            request, answer = self.methods[method]
            return self.handler(request, answer)
        if service == "grpc.health.v1.Health":
            return self.handler("Empty", lambda _: M["Health"](status=1))
        if service == "plugin.GRPCController":
            return self.handler("Empty", self.shut_down)
        return None

    @staticmethod
    def handler(request, answer):
        return grpc.unary_unary_rpc_method_handler(
            lambda message, _: answer(message),
            request_deserializer=M[request].FromString,
            response_serializer=lambda message: message.SerializeToString(),
        )

    @staticmethod
    def shut_down(_):
        # After the answer has gone out.
        threading.Timer(0.05, lambda: os._exit(0)).start()
        return M["Empty"]()


def main():
    if "TF_PLUGIN_MAGIC_COOKIE" not in os.environ:
        sys.exit("terraform_provider: Terraform starts this")
    with open(os.environ["TERRAFORM_SCHEMA"], encoding="utf-8") as file:
        provider = Provider(json.load(file))
    server = grpc.server(futures.ThreadPoolExecutor(8), options=[("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)])
    server.add_generic_rpc_handlers([Services(provider)])
    socket = os.path.join(tempfile.mkdtemp(prefix="tf", dir=os.environ.get("TERRAFORM_SOCKETS")), "s")
    server.add_insecure_port(f"unix:{socket}")
    server.start()
    print(f"1|5|unix|{socket}|grpc|", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""terraform_schema.py [--check] [WHEEL]: takes what terraform/ uses out of the schema of the provider, and writes scripts/cloud/terraform_schema.json.

The provider's own schema cannot be had without the provider, which no package registry has. But the bindings of CDK Terrain for it (cdktn-provider-google,
on PyPI) are made from that schema, and say of each resource: names, types, required, optional or computed, blocks and how often they may come, and for some
attributes the values that are possible. Without WHEEL it is downloaded (67 MB). With --check nothing is written: it says whether the file is what would be
written.

What the schema says nothing of, and this file neither: which arguments exclude each other, the form of values, what the API does.
"""
import json
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from io import BytesIO
from pathlib import Path

PACKAGE = "cdktn-provider-google==21.1.0"
ROOT = Path(__file__).resolve().parents[2]
OUT = Path(__file__).with_name("terraform_schema.json")

SIMPLE = {
    "string": "string",
    "number": "number",
    "boolean": "bool",
    "stringList": ["list", "string"],
    "numberList": ["list", "number"],
    "stringMap": ["map", "string"],
    "booleanMap": ["map", "bool"],
    "numberMap": ["map", "number"],
}
GETTERS = {
    "String": "string",
    "Number": "number",
    "Boolean": "bool",
    "List": ["list", "string"],
    "NumberList": ["list", "number"],
    "StringMap": ["map", "string"],
    "BooleanMap": ["map", "bool"],
    "NumberMap": ["map", "number"],
    "AnyMap": ["map", "string"],
}


class Bindings:
    """The JavaScript of one resource or data source.
"""

    def __init__(self, source):
        # What turns a nested block into HCL, by name; and all classes with what they extend.
        self.to_hcl = dict(re.findall(r"^(?:export )?function (\w+)ToHclTerraform\(struct\) \{(.*?)^\}", source, re.M | re.S))
        self.classes = {m[1]: (m[2], m[3]) for m in re.finditer(r"^class (\w+) extends ([\w.]+) \{(.*?)^\}", source, re.M | re.S)}
        ends = ("TerraformResource", "TerraformDataSource", "TerraformProvider")
        self.main, self.kind = next(((name, base.split(".")[-1]) for name, (base, _) in self.classes.items() if base.endswith(ends)), (None, None))

    def block(self):
        body = self.classes[self.main][1]
        top = re.search(r"synthesizeHclAttributes\(\) \{(.*?)^ {4}\}", body, re.M | re.S)[1]
        return self._block(self._entries(top, 12), body, 0)

    @staticmethod
    def _entries(text, indent):
        """`name: {` and the lines in it, at this indentation."""
        found = re.findall(rf"^ {{{indent}}}(\w+): \{{\n((?: {{{indent + 4}}}.*\n)+?) {{{indent}}}\}},", text, re.M)
        return {name: dict(re.findall(r"(isBlock|type|storageClassType|value): \"?(.*?)\"?,\n", inner)) for name, inner in found}

    @staticmethod
    def _flags(body):
        found = re.findall(r"^ {4}// (\w+) - computed: (\w+), optional: (\w+), required: (\w+)", body, re.M)
        return {name: {"computed": c == "true", "optional": o == "true", "required": r == "true"} for name, c, o, r in found}

    @staticmethod
    def _getters(body):
        """How each attribute is read: the name of a getter, or of a class."""
        found = {}
        for part in re.split(r"^ {4}// (?=\w+ - computed)", body, flags=re.M)[1:]:
            name = part.split(" ", 1)[0]
            getter = re.search(r"return this\.get(\w+)Attribute\('\w+'\)", part)
            made = re.search(r"new (?:cdktn\.)?(\w+)\(this", part)
            kept = re.search(r"return this\._(\w+);", part)
            if not getter and not made and kept:
                made = re.search(rf"^ *(?:this\.)?_{kept[1]} = new (?:cdktn\.)?(\w+)\(this", body, re.M)
            found[name] = getter[1] if getter else made[1] if made else None
        return found

    def _object(self, name, depth=0):
        """The type of a computed object of this class."""
        base, body = self.classes[name]
        inner = name
        if "ComplexList" in base or "ComplexMap" in base:
            inner = re.search(r"new (\w+)\(this", body)[1]
        fields = {}
        for field, getter in self._getters(self.classes[inner][1]).items():
            if getter in GETTERS:
                fields[field] = GETTERS[getter]
            elif getter in self.classes and depth < 12:
                fields[field] = self._object(getter, depth + 1)
            else:
                fields[field] = "string"
        return ["map" if "ComplexMap" in base else "list", ["object", fields]]

    def _block(self, entries, body, depth):
        flags, getters = self._flags(body), self._getters(body)
        attributes, blocks = {}, {}
        for name, entry in entries.items():
            flag = flags.get(name, {"computed": False, "optional": True, "required": False})
            if name == "timeouts" and depth == 0:
                continue
            if entry.get("isBlock") == "true":
                nested = re.search(r"(\w+)ToHclTerraform", entry["value"])[1]
                of_class = next((c for c in self.classes if c.lower() == (nested + "OutputReference").lower()), None)
                inner = self._block(self._entries(self.to_hcl[nested], 8), self.classes[of_class][1] if of_class else "", depth + 1)
                block = {"nesting_mode": entry["type"] if entry["type"] in ("list", "set") else "list", "block": inner}
                if "listMapperHcl" not in entry["value"]:
                    block["max_items"] = 1
                if flag["required"]:
                    block["min_items"] = 1
                blocks[name] = block
            else:
                kind = SIMPLE.get(entry.get("storageClassType"), "string")
                if entry.get("type") == "set" and isinstance(kind, list):
                    kind = ["set", kind[1]]
                attributes[name] = {"type": kind} | {key: True for key, value in flag.items() if value}
        for name, flag in flags.items():
            if name in attributes or name in blocks or flag["optional"] or flag["required"]:
                continue
            getter = getters.get(name)
            kind = GETTERS.get(getter) or (self._object(getter) if getter in self.classes else "string")
            attributes[name] = {"type": kind, "computed": True}
        return {"attributes": attributes, "block_types": blocks}


def pascal(name):
    return "".join(word.capitalize() for word in name.split("_"))


def possible_values(declarations, name, block):
    """What the documentation lists as possible values of a text, in this block and those in it: as `Possible values: ["A", "B"]`, or one on each line."""
    found = re.search(rf"^export interface {name}(?:Config)? (?:extends \S+ )?\{{\n(.*?)^\}}", declarations, re.M | re.S)
    for text in re.findall(r"/\*\*((?:(?!\*/).)*?)\*/\s*readonly \w+\??: string;", found[1] if found else "", re.S):
        text = re.sub(r"^\s*\* ?", "", text, flags=re.M)
        attribute = re.search(r"resources/\w+#(\w+) ", text)
        if not attribute or attribute[1] not in block["attributes"]:
            continue
        listed = re.search(r"Possible values: \[([^\]]+)\]", text)
        in_lines = re.search(r"Possible values:\s*\n((?:\s*[A-Z][A-Z0-9_]+\.?\n)+)", text)
        values = re.findall(r'"([^"]*)"', listed[1]) if listed else re.findall(r"[A-Z0-9_]+", in_lines[1]) if in_lines else []
        if values:
            block["attributes"][attribute[1]]["values"] = values
    for nested, of in block["block_types"].items():
        possible_values(declarations, name + pascal(nested), of["block"])


def used():
    """Types of resources and data sources that terraform/ uses."""
    text = "\n".join(path.read_text() for path in sorted((ROOT / "terraform").rglob("*.tf")))
    return set(re.findall(r'^resource "(google_\w+)"', text, re.M)), set(re.findall(r'^data "(google_\w+)"', text, re.M))


def extract(wheel):
    with zipfile.ZipFile(wheel) as files:
        name = next(n for n in files.namelist() if n.endswith(".jsii.tgz"))
        archive = tarfile.open(fileobj=BytesIO(files.read(name)))
    sources = {}
    for member in archive:
        match = re.fullmatch(r"package/lib/([\w-]+)/(?:index|index-structs/\w+)(\.js|\.d\.ts)", member.name)
        if match:
            sources.setdefault(match[1], {}).setdefault(match[2], []).append((member.name, archive.extractfile(member).read().decode()))
        elif member.name == "package/package.json":
            provider = json.load(archive.extractfile(member))["cdktf"]["provider"]
    resources, data_sources = used()
    found = {"provider": provider, "resource_schemas": {}, "data_source_schemas": {}}
    for parts in sources.values():
        source = "\n".join(text for _, text in sorted(parts[".js"]))
        name = re.search(r"tfResourceType = \"(\w+)\"", source)
        if not name or name[1] not in resources | data_sources | {"google"}:
            continue
        name = name[1]
        bindings = Bindings(source)
        wanted = {"TerraformProvider": {"google"}, "TerraformResource": resources, "TerraformDataSource": data_sources}
        if name not in wanted.get(bindings.kind, ()):
            continue
        block = bindings.block()
        if bindings.kind == "TerraformProvider":
            for attribute in block["attributes"].values():
                attribute.pop("required", None)
                attribute["optional"] = True
            found["provider_schema"] = {"block": block}
            continue
        possible_values("\n".join(text for _, text in sorted(parts[".d.ts"])), bindings.main, block)
        found["data_source_schemas" if bindings.kind == "TerraformDataSource" else "resource_schemas"][name] = {"block": block}
    missing = (resources - set(found["resource_schemas"])) | (data_sources - set(found["data_source_schemas"]))
    if missing:
        sys.exit(f"terraform_schema: provider {provider['version']} has no {', '.join(sorted(missing))}")
    return found


def lines(schema):
    """JSON with a line for each type: what changes is seen in a diff."""
    out = ["{", f' "provider": {json.dumps(schema["provider"])},', f' "provider_schema": {json.dumps(schema["provider_schema"], sort_keys=True)},']
    for kind in ("resource_schemas", "data_source_schemas"):
        out.append(f' "{kind}": {{')
        out.append(",\n".join(f"  {json.dumps(name)}: {json.dumps(of, sort_keys=True, separators=(',', ':'))}" for name, of in sorted(schema[kind].items())))
        out.append(" }," if kind == "resource_schemas" else " }")
    return "\n".join([*out, "}", ""])


def main():
    arguments = [a for a in sys.argv[1:] if a != "--check"]
    with tempfile.TemporaryDirectory() as folder:
        if not arguments:
            subprocess.run([sys.executable, "-m", "pip", "--quiet", "download", "--no-deps", "--dest", folder, PACKAGE], check=True)
            arguments = [next(Path(folder).glob("*.whl"))]
        text = lines(extract(arguments[0]))
    if "--check" in sys.argv:
        if OUT.read_text() != text:
            sys.exit(f"terraform_schema: {OUT.name} is not what {PACKAGE} says of what terraform/ uses: run scripts/cloud/terraform_schema.py")
    else:
        OUT.write_text(text)
        print(f"{OUT.relative_to(ROOT)}: {len(text)} bytes")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Writes fields.json: the fields of the messages of Envoy's API that tracer-mesh knows, with their types.

usage: extract.py FOLDER > fields.json

FOLDER is the unpacked Go module github.com/envoyproxy/go-control-plane/envoy, at the version that tests/mesh/go.mod pins
(go mod download -json MODULE@VERSION prints it). The messages are those that tracer-mesh/src/known_fields names.
"""

import json
import re
import sys
from pathlib import Path

FIELD = re.compile(r'^\s+\w+\s+(\S+)\s+`protobuf:"([^"]*)"', re.M)
STRUCT = re.compile(r"^type (\w+) struct \{\n(.*?)^\}", re.M | re.S)
IMPORT = re.compile(r'^\s+(?:(\w+) )?"(github\.com/\S+|google\.golang\.org/\S+)"', re.M)
SCALARS = {
    "bool": "bool", "string": "string", "[]byte": "bytes", "float32": "number", "float64": "number",
    "int32": "number", "int64": "number", "uint32": "number", "uint64": "number",
}


def package(path):
    """The proto package of a Go package, by its path inside of the module."""
    return "envoy." + str(path).replace("/", ".")


def messages(root):
    """The fields and types of every message."""
    found = {}
    for file in sorted(root.rglob("*.pb.go")):
        if file.name.endswith((".pb.validate.go", "_vtproto.pb.go")):
            continue
        text = file.read_text()
        own = package(file.parent.relative_to(root))
        imports = {}
        for alias, path in IMPORT.findall(text):
            if "go-control-plane/envoy/" in path:
                name = package(path.split("go-control-plane/envoy/")[1])
            else:
                name = "google.protobuf" if "protobuf" in path else path
            imports[alias or path.split("/")[-1]] = name
        is_message = set(re.findall(r"^func \(\*(\w+)\) ProtoMessage\(\)", text, re.M))
        # A oneof's member is a struct of its own, which its parent's interface takes.
        parents = {}
        interfaces = {}
        for match in re.finditer(r"^type (\w+) struct \{\n(.*?)^\}", text, re.M | re.S):
            for interface in re.findall(r"\s(is\w+)\s+`protobuf_oneof:", match[2]):
                interfaces[interface] = match[1]
        for wrapper, interface in re.findall(r"^func \(\*(\w+)\) (is\w+)\(\) \{\s*\}", text, re.M):
            parents[wrapper] = interfaces.get(interface)
        for name, body in STRUCT.findall(text):
            owner = name if name in is_message else parents.get(name)
            if owner is None:
                continue
            fields = found.setdefault(f"{own}.{owner.replace('_', '.')}", {})
            for go_type, tag in FIELD.findall(body):
                field = re.search(r"name=(\w+)", tag)[1]
                kind = go_type
                is_list = kind.startswith("[]") and kind != "[]byte"
                kind = kind.removeprefix("[]") if is_list else kind
                if kind.startswith("map["):
                    kind = "map"
                elif "enum=" in tag:
                    kind = "enum"
                elif kind in SCALARS:
                    kind = SCALARS[kind]
                else:
                    kind = kind.lstrip("*")
                    alias, _, message = kind.rpartition(".")
                    kind = f"{imports.get(alias, alias) if alias else own}.{message.replace('_', '.')}"
                fields[field] = f"repeated {kind}" if is_list else kind
    return found


def main():
    root = Path(sys.argv[1])
    here = Path(__file__).resolve().parent
    tables = "".join(path.read_text() for path in (here / "../../tracer-mesh/src").rglob("known_fields*/*.rs"))
    wanted = sorted(set(re.findall(r'proto: "([\w.]+)"', tables)))
    everything = messages(root)
    missing = [name for name in wanted if name not in everything]
    if missing:
        sys.exit(f"no such message: {', '.join(missing)}")
    version = re.search(r"@(v[\w.-]+)$", str(root))
    document = {
        "source": "github.com/envoyproxy/go-control-plane/envoy",
        "version": version[1] if version else None,
        "messages": {name: dict(sorted(everything[name].items())) for name in wanted},
    }
    json.dump(document, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()

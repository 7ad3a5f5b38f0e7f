"""Applies a kustomization and components, or reads the objects of a file, checks each object against the schemas of the three newest Kubernetes minor versions in
the given wheel, and prints the objects as JSON. An unknown field of a kustomization is an error."""

import json
import pathlib
import sys
import zipfile

import jsonschema
import yaml

SCHEMAS = "kubernetes_validate/kubernetes-json-schema/"
# The Prometheus operator's objects and OpenShift's: no package has their schemas.
OTHERS = {"monitoring.coreos.com/v1", "security.openshift.io/v1"}


def read(path):
    return [each for each in yaml.safe_load_all(path.read_text()) if each]


def merge(into, patch):
    """Strategic merge: maps by key, containers by name, other lists as a whole."""
    for key, value in patch.items():
        old = into.get(key)
        if isinstance(value, dict) and isinstance(old, dict):
            merge(old, value)
        elif key == "containers" and isinstance(old, list):
            for container in value:
                merge(next(each for each in old if each["name"] == container["name"]), container)
        else:
            into[key] = value


def apply_json_patch(target, operations):
    for operation in operations:
        assert operation["op"] == "replace", operation
        *way, last = operation["path"].strip("/").split("/")
        at = target
        for step in way:
            at = at[int(step)] if isinstance(at, list) else at[step]
        key = int(last) if isinstance(at, list) else last
        assert key in at if isinstance(at, dict) else key < len(at), operation
        at[key] = operation["value"]


def build(folder, objects):
    [kustomization] = read(folder / "kustomization.yaml")
    for name in kustomization.pop("resources", []):
        path = folder / name
        if path.is_dir():
            build(path, objects)
        else:
            objects.extend(read(path))
    namespace = kustomization.pop("namespace", None)
    for each in objects if namespace else []:
        if each["kind"] != "Namespace":
            each["metadata"]["namespace"] = namespace
    for patch in kustomization.pop("patches", []):
        if "path" in patch:
            [change] = read(folder / patch["path"])
            kind, name = change["kind"], change["metadata"]["name"]
            [target] = [each for each in objects if each["kind"] == kind and each["metadata"]["name"] == name]
            if change.pop("$patch", None) == "delete":
                objects.remove(target)
            else:
                merge(target, change)
        else:
            kind, name = patch["target"]["kind"], patch["target"]["name"]
            [target] = [each for each in objects if each["kind"] == kind and each["metadata"]["name"] == name]
            apply_json_patch(target, yaml.safe_load(patch["patch"]))
    for image in kustomization.pop("images", []):
        for each in objects:
            for container in each.get("spec", {}).get("template", {}).get("spec", {}).get("containers", []):
                if container["image"] == image["name"]:
                    container["image"] = f"{image['newName']}:{image['newTag']}"
    kustomization.pop("apiVersion"), kustomization.pop("kind")
    assert not kustomization, f"{folder}: unknown fields {list(kustomization)}"
    return objects


def local(text):
    return text.decode().replace('"/api/_definitions.json#', '"#')


def check(objects, wheel):
    with zipfile.ZipFile(wheel) as files:
        versions = {name.split("/")[2] for name in files.namelist() if name.startswith(SCHEMAS)}
        minors = sorted(int(each.split(".")[1]) for each in versions if each.endswith("-local-strict"))
        for minor in minors[-3:]:
            base = f"{SCHEMAS}v1.{minor}.0-local-strict/"
            definitions = json.loads(local(files.read(base + "_definitions.json")))["$defs"]
            for each in objects:
                group, _, version = each["apiVersion"].rpartition("/")
                if each["apiVersion"] in OTHERS:
                    continue
                kind = "-".join(filter(None, [each["kind"].lower(), group.split(".")[0], version]))
                schema = {**json.loads(local(files.read(f"{base}{kind}.json"))), "$defs": definitions}
                jsonschema.Draft202012Validator(schema).validate(each)


first = pathlib.Path(sys.argv[2])
objects = read(first) if first.is_file() else build(first, [])
for component in sys.argv[3:]:
    build(pathlib.Path(component), objects)
check(objects, sys.argv[1])
json.dump(objects, sys.stdout)

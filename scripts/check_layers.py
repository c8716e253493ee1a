#!/usr/bin/env python3
"""Checks the layout of the tree: who includes whom, file names and sizes.

usage: check_layers.py [ROOT]

Errors (exit code 1):
  - a file of src/<layer>/ includes a layer that src/LAYERS does not allow it
  - cli/ or server/ includes anything of ours but upg/... and its own headers
  - two source files have the same name
  - an include names a file that is not there
Warnings: files of more than 800 lines.
"""
import os
import re
import sys

INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"')
SOURCES = (".c", ".h", ".def", ".cu", ".comp", ".py", ".sh")
FOLDERS = ("include", "src", "cli", "server", "python", "tests", "bench", "scripts")
# Names that a folder needs by convention.
REPEATED = {"CMakeLists.txt", "__init__.py"}
LINES_MAX = 800


def read_layers(path):
    layers = {}
    with open(path, encoding="utf-8") as file:
        for line in file:
            line = line.split("#")[0].strip()
            if line:
                name, _, allowed = line.partition(":")
                layers[name] = set(allowed.split()) | {name}
    return layers


def source_files(root):
    for folder in FOLDERS:
        for path, folders, names in os.walk(os.path.join(root, folder)):
            folders[:] = sorted(f for f in folders if f not in ("data", "corpus", "__pycache__"))
            for name in sorted(names):
                if name.endswith(SOURCES):
                    yield os.path.relpath(os.path.join(path, name), root)


def layer_error(path, included, layers, root):
    """What is wrong with `path` including `included`, or None."""
    parts = path.split("/")
    if parts[0] == "src":
        layer = parts[1]
        if included.startswith("upg/"):
            if layer in ("runtime", "api") or included == "upg/status.h":
                return None
            # upg.h is what the top layers implement; the others do not stand on it.
            return f"{layer} may not include {included}; upg/status.h is for all"
        target = included.split("/")[0]
        if target not in layers:
            return f'"{included}" does not begin with a layer of src/LAYERS'
        if target not in layers.get(layer, ()):
            return f'layer {layer} may not include "{included}"'
        if not os.path.exists(os.path.join(root, "src", included)):
            return f'"{included}" is not there'
    elif parts[0] in ("cli", "server"):
        own = os.path.exists(os.path.join(root, os.path.dirname(path), included))
        if not own and not included.startswith("upg/"):
            return f'{parts[0]}/ includes upg/... and its own headers, not "{included}"'
    return None


def main():
    root = sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(__file__), "..")
    layers = read_layers(os.path.join(root, "src", "LAYERS"))
    seen, errors, files = {}, [], 0

    for path in source_files(root):
        files += 1
        name = os.path.basename(path)
        if name in seen and name not in REPEATED:
            errors.append(f"{path}: {seen[name]} has the same name")
        seen[name] = path
        with open(os.path.join(root, path), encoding="utf-8") as file:
            lines = file.readlines()
        if len(lines) > LINES_MAX and not name.endswith("_tables.c"):
            print(f"{path}: warning: {len(lines)} lines: look for the seam")
        if not name.endswith((".c", ".h", ".cu")):
            continue
        for number, line in enumerate(lines, 1):
            match = INCLUDE.match(line)
            error = match and layer_error(path, match.group(1), layers, root)
            if error:
                errors.append(f"{path}:{number}: {error}")
    for layer in sorted(os.listdir(os.path.join(root, "src"))):
        if os.path.isdir(os.path.join(root, "src", layer)) and layer not in layers:
            errors.append(f"src/{layer}: not in src/LAYERS")
    for error in errors:
        print(error, file=sys.stderr)
    print(f"{files} files, {len(errors)} errors")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())

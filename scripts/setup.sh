#!/bin/bash
# Installs what is missing on Debian 12 to build upg, and says what and why.
#
# usage: setup.sh [--tests] [--arm] [--slurm]
#   --tests   also what the tests need
#   --arm     also what test_arm.sh needs
#   --slurm   also what test_slurm.sh needs
#
# Needs root or sudo only when something is missing. On other systems it names what it cannot find
# and leaves the rest to cmake.
set -euo pipefail

needed='gcc             the C compiler
libc6-dev       C library headers
cmake           builds
ninja-build     builds, in parallel
pkg-config      finds the libraries
libjansson-dev  JSON: configurations and results
libpcre2-dev    regular expressions of tokenizers
libxxhash-dev   checksums of .upg files
libhwloc-dev    cores and memories: where threads and data go
libedit-dev     line editing in upg chat
libopenblas-dev matrix factorisations when compressing'

tests='libcmocka-dev   unit tests
python3         test runner and checks
python3-venv    tests of the Python package, which fetch theirs from PyPI
clang           second compiler, fuzzing
libclang-rt-14-dev sanitizers and the fuzzer of clang
clang-format    checks the layout of the code
clang-tidy      checks the code
mandoc          checks the manual page'

arm='gcc-aarch64-linux-gnu the C compiler for 64-bit ARM
libc6-dev-arm64-cross its C library
qemu-user       runs programs for 64-bit ARM'

slurm='slurm-wlm       a job array, for real
munge           its authentication'

list="$needed"
for option in "$@"; do
    case $option in
    --tests) list+=$'\n'$tests ;;
    --arm) list+=$'\n'$arm ;;
    --slurm) list+=$'\n'$slurm ;;
    *)
        echo "usage: setup.sh [--tests] [--arm] [--slurm]" >&2
        exit 2
        ;;
    esac
done

if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
    echo "setup: no apt-get here. Needed, by their names in Debian 12:" >&2
    echo "$list" | sed 's/^/  /' >&2
    exit 0
fi

installed() {
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

missing=()
while read -r package why; do
    installed "$package" && continue
    [ ${#missing[@]} -gt 0 ] || echo "setup: missing Debian packages:"
    printf '  %-20s%s\n' "$package" "$why"
    missing+=("$package")
done <<<"$list"

if [ ${#missing[@]} -eq 0 ]; then
    echo "setup: all Debian packages are there"
    exit 0
fi

as_root=()
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null; then
        echo "setup: neither root nor sudo here. Run as root, then again:" >&2
        echo "  apt-get install --no-install-recommends ${missing[*]}" >&2
        exit 1
    fi
    as_root=(sudo)
fi

export DEBIAN_FRONTEND=noninteractive
install_missing() {
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -q --no-install-recommends "${missing[@]}"
}

echo "setup: installing them"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# The package lists may be absent or old: fetch them only when they do not suffice.
if ! install_missing >"$log" 2>&1; then
    if ! { "${as_root[@]}" apt-get update -q && install_missing; } >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        echo "setup: apt-get failed" >&2
        exit 1
    fi
fi
echo "setup: done"

#!/bin/bash
# The tests of base, codec and kernels on 64-bit ARM: cross-compiled, and run by qemu's user mode.
#
# usage: test_arm.sh
#   UPG_JOBS   parallel jobs; default: the number of processors
#
# cmocka and jansson for arm64 are unpacked below build/, from Debian's packages and by a
# configuration of apt's own there: the system gets no second architecture. Those that are installed
# already are used instead.
set -euo pipefail
cd "$(dirname "$0")/.."

jobs=${UPG_JOBS:-$(nproc)}
build=$PWD/build/arm64
sysroot=$PWD/build/arm64-sysroot
packages=(libcmocka-dev libcmocka0 libjansson-dev libjansson4)

if [ "$(uname -m)" = aarch64 ]; then
    echo "test_arm: this machine is 64-bit ARM, ctest's ordinary run is that test"
    exit 0
fi

scripts/setup.sh --arm
for program in aarch64-linux-gnu-gcc qemu-aarch64; do
    command -v "$program" >/dev/null || { echo "test_arm: no $program here" >&2; exit 1; }
done

unpack_libraries() {
    local work=$PWD/build/arm64-packages package
    rm -rf "$work" "$sysroot"
    mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$sysroot"
    cat >"$work/apt.conf" <<EOF
Dir::State "$work";
Dir::State::status "/dev/null";
Dir::Cache "$work/cache";
APT::Architecture "arm64";
APT::Architectures { "arm64"; };
APT::Sandbox::User "$(id -un)";
EOF
    (cd "$work" && export APT_CONFIG=$work/apt.conf && apt-get -q update &&
        apt-get -q download "${packages[@]}") >"$work/log" 2>&1 ||
        { tail -n 20 "$work/log" >&2; return 1; }
    for package in "$work"/*.deb; do
        dpkg -x "$package" "$sysroot"
    done
    touch "$sysroot/complete"
    rm -rf "$work"
}

installed=/usr/lib/aarch64-linux-gnu/pkgconfig
if [ -e "$installed/cmocka.pc" ] && [ -e "$installed/jansson.pc" ]; then
    echo "test_arm: libraries for arm64 are installed"
    sysroot=
elif [ ! -e "$sysroot/complete" ]; then
    echo "test_arm: unpacking ${packages[*]} for arm64 below build/: the tests link them"
    unpack_libraries || { echo "test_arm: no libraries for arm64" >&2; exit 1; }
fi

cmake --preset arm64 -DUPG_SYSROOT="$sysroot" >"$build.log" || { cat "$build.log"; exit 1; }
cmake --build "$build" -j "$jobs" >"$build.log" || { tail -n 60 "$build.log"; exit 1; }

echo "test_arm: a processor without DotProd"
QEMU_CPU=cortex-a72 ctest --test-dir "$build" -R '^(select|codec_kernels|lut8_kernels)_test$' -j "$jobs" \
    --output-on-failure >"$build.log" || { cat "$build.log"; exit 1; }
tail -n 3 "$build.log"

echo "test_arm: a processor with DotProd"
ctest --test-dir "$build" -j "$jobs" --output-on-failure

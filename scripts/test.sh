#!/bin/bash
# Every test: the same set-up as demo.sh, then all checks, and last ctest with its own summary.
# Less than half an hour on two cores.
#
# usage: test.sh
#   UPG_FUZZ_SECONDS   for each fuzz target; default 30, 0 leaves fuzzing out
#   UPG_ARM            0 leaves the kernels for 64-bit ARM out (packages and qemu)
#   UPG_JOBS           parallel jobs; default: the number of processors
set -euo pipefail
cd "$(dirname "$0")/.."

fuzz_seconds=${UPG_FUZZ_SECONDS:-30}
jobs=${UPG_JOBS:-$(nproc)}
build=build/test
started=$SECONDS

step() {
    printf '\n== [%d:%02d] %s\n' $(((SECONDS - started) / 60)) $(((SECONDS - started) % 60)) "$*"
}
trap 'test $? -eq 0 || printf "\n== test.sh: FAILED in the last step above\n"' EXIT

configure() {
    local folder=$1
    shift
    cmake -S . -B "$build/$folder" -G Ninja -DUPG_WERROR=ON "$@" >"$build/$folder.log" ||
        { cat "$build/$folder.log"; return 1; }
}
compile() {
    local folder=$1
    shift
    # A failed command's own output is what is wanted then.
    cmake --build "$build/$folder" -j "$jobs" "$@" >"$build/$folder.log" ||
        { tail -n 60 "$build/$folder.log"; return 1; }
}

step "Packages"
scripts/setup.sh --tests
mkdir -p "$build"

step "Layers, file names, formatting"
scripts/check_layers.py
sources=$(find include src cli tests bench -name '*.[ch]' -not -path '*/data/*')
# shellcheck disable=SC2086
clang-format --dry-run --Werror $sources
echo "clang-format: $(wc -w <<<"$sources") files"

step "Build: gcc, release, warnings as errors"
configure gcc -DCMAKE_C_COMPILER=gcc -DCMAKE_BUILD_TYPE=Release
compile gcc

step "Build: clang, release, warnings as errors"
configure clang -DCMAKE_C_COMPILER=clang -DCMAKE_BUILD_TYPE=Release
compile clang

step "Install, and build programs against it"
scripts/test_install.sh "$build/gcc"

step "clang-tidy"
# Intrinsics make the analyzer slow and find nothing: kernels of one ISA are left out.
find src cli -name '*.c' -not -name '*_avx*.c' -not -path '*/arm/*' -not -name '*_tables.c' \
    -not -path '*/cuda/*' -not -path '*/vulkan/*' -print0 |
    xargs -0 -P "$jobs" -n 1 clang-tidy --quiet -p "$build/clang" >"$build/tidy.log" 2>/dev/null ||
    { cat "$build/tidy.log"; exit 1; }
echo "clang-tidy: clean"

step "Unit tests under AddressSanitizer and UndefinedBehaviorSanitizer"
configure asan -DCMAKE_C_COMPILER=gcc -DCMAKE_BUILD_TYPE=RelWithDebInfo \
    -DUPG_SANITIZE=address,undefined
compile asan
export ASAN_OPTIONS=detect_leaks=1:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1
ctest --test-dir "$build/asan" -L 'unit|kernels|cli' --no-tests=error -j "$jobs" --output-on-failure \
    >"$build/asan.log" || { tail -n 80 "$build/asan.log"; exit 1; }
tail -n 4 "$build/asan.log"

step "Threaded tests under ThreadSanitizer"
configure tsan -DCMAKE_C_COMPILER=clang -DCMAKE_BUILD_TYPE=RelWithDebInfo -DUPG_SANITIZE=thread
compile tsan
TSAN_OPTIONS=halt_on_error=1 ctest --test-dir "$build/tsan" -L unit --no-tests=error \
    -R 'pool|progress|cpu|batch|session|thread|model_api|encode' -j 1 --output-on-failure \
    >"$build/tsan.log" || { tail -n 80 "$build/tsan.log"; exit 1; }
tail -n 4 "$build/tsan.log"

if [ "$fuzz_seconds" -gt 0 ]; then
    step "Fuzzing: every target for $fuzz_seconds s"
    # The library is instrumented too: without that the fuzzer would see nothing of it.
    configure fuzz -DCMAKE_C_COMPILER=clang -DCMAKE_BUILD_TYPE=RelWithDebInfo \
        -DCMAKE_C_FLAGS=-fsanitize=fuzzer-no-link -DUPG_SANITIZE=address,undefined -DUPG_BUILD_FUZZ=ON
    targets=$(find tests/fuzz -name '*_fuzz.c' -exec basename {} .c \; | sort)
    # shellcheck disable=SC2086
    compile fuzz --target $targets
    # shellcheck disable=SC2086
    printf '%s\n' $targets | xargs -P "$jobs" -n 1 scripts/fuzz_one.sh "$build/fuzz" "$fuzz_seconds"
fi

if nvcc=$(command -v nvcc || ls /usr/local/cuda/bin/nvcc 2>/dev/null); then
    step "CUDA: the module, one architecture of each kind, loaded; its tests where a GPU is"
    configure cuda -DCMAKE_BUILD_TYPE=Release -DUPG_CUDA=ON -DCMAKE_CUDA_COMPILER="$nvcc" \
        -DCMAKE_CUDA_ARCHITECTURES="80-real;90a-real"
    targets=$(find tests/cuda -name '*_test.c' -exec basename {} .c \; | sort)
    # shellcheck disable=SC2086
    compile cuda --target upg_cuda $targets
    ctest --test-dir "$build/cuda" -R '^cuda_' --no-tests=error -V >"$build/cuda-tests.log" ||
        { tail -n 80 "$build/cuda-tests.log"; exit 1; }
    grep -o 'skipped: .*\|[0-9]*% tests passed.*' "$build/cuda-tests.log" | sort -u
else
    printf '\n== CUDA: skipped, there is no nvcc\n'
fi

if [ "${UPG_ARM:-1}" = 1 ]; then
    step "64-bit ARM: kernels, cross-compiled, by qemu"
    scripts/test_arm.sh
fi

step "Python: wheel, types, tests"
CMAKE_BUILD_PARALLEL_LEVEL=$jobs scripts/test_python.sh "$build"

step "All tests"
# With that environment's NumPy, so that no test is left out for the lack of it.
UPG_PYTHON=$PWD/$build/python/venv/bin/python ctest --test-dir "$build/gcc" -j "$jobs" --output-on-failure

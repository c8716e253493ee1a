#!/bin/bash
# Installs a build into a temporary prefix and uses it as a stranger would: through pkg-config
# (shared, static) and through CMake's find_package (shared, static). Checks the exported names, the
# public headers in C++ where there is a C++ compiler, and the manual page.
#
# usage: test_install.sh BUILD_FOLDER
set -euo pipefail
build=$(cd "$1" && pwd)
cd "$(dirname "$0")/.."
root=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
prefix=$work/prefix
compiler=${CC:-cc}

cmake --install "$build" --prefix "$prefix" >"$work/log" || { cat "$work/log"; exit 1; }
pc=$(find "$prefix" -name upg.pc)
lib=$(dirname "$(dirname "$pc")")
# The file was written for the configured prefix; --define-variable moves it to this one.
pkg() {
    PKG_CONFIG_PATH=$(dirname "$pc") pkg-config --define-variable=prefix="$prefix" "$@" upg
}
run_consumer() {
    local version
    version=$(LD_LIBRARY_PATH=$lib "$1")
    [ "$version" = "upg $(pkg --modversion)" ] || { echo "$1 printed \"$version\""; exit 1; }
}

# shellcheck disable=SC2046
"$compiler" tests/install/consumer.c -o "$work/shared" $(pkg --cflags --libs)
run_consumer "$work/shared"
echo "pkg-config, shared: works"

# The archive by name; what it needs may stay shared.
# shellcheck disable=SC2046
"$compiler" tests/install/consumer.c -o "$work/static" \
    $(pkg --static --cflags --libs | sed 's/-lupg\b/-l:libupg.a/')
run_consumer "$work/static"
! ldd "$work/static" | grep -q libupg || { echo "the static program needs libupg.so"; exit 1; }
echo "pkg-config, static: works"

for kind in shared static; do
    cmake -S tests/install -B "$work/$kind-build" -DCMAKE_C_COMPILER="$compiler" \
        -DCMAKE_PREFIX_PATH="$prefix" -DKIND=$kind >"$work/log" 2>&1 &&
        cmake --build "$work/$kind-build" >>"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
    run_consumer "$work/$kind-build/consumer"
    echo "find_package, $kind: works"
done

# Exactly the functions of the public headers are exported.
nm -D --defined-only "$lib/libupg.so" | awk '$2 ~ /[A-Z]/ { print $3 }' | sort >"$work/exported"
cat "$prefix"/include/upg/*.h | tr '\n' ' ' | grep -oE 'UPG_(FN|API)[^;]*\(' |
    sed -E 's/^UPG_(FN|API)//' | grep -oE 'upg_[a-z0-9_]+ *\($|upg_[a-z0-9_]+ *\(' |
    tr -d ' (' | sort -u >"$work/declared"
diff "$work/declared" "$work/exported" >"$work/diff" ||
    { echo "declared (<) and exported (>) names differ:"; cat "$work/diff"; exit 1; }
echo "exported names: $(wc -l <"$work/exported"), as declared"

if command -v clang++ >/dev/null; then
    for header in "$prefix"/include/upg/*.h; do
        clang++ -x c++ -std=c++17 -Wall -Wextra -Werror -fsyntax-only -I"$prefix/include" "$header"
    done
    echo "headers in C++: compile"
fi
if command -v mandoc >/dev/null; then
    mandoc -T lint -W warning "$root/docs/upg.1"
    echo "manual page: no warnings"
fi
[ "$("$prefix/bin/upg" --version)" = "upg $(pkg --modversion)" ]
echo "installed program: runs"

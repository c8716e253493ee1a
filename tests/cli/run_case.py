#!/usr/bin/env python3
"""Runs one case of cases/ and compares stdout, stderr and exit code, byte for byte.

usage: run_case.py --upg PROGRAM --data TESTS_DATA --micro MICRO.upg [--update] CASE.sh

The script runs by bash in an empty folder where `data` is a link to the tests' data and `micro.upg`
one to the compressed demo model; `upg` is on its PATH, and so are the tools of tests/cli/tools.
Exit code 77 skips the case; what it printed says why. --update writes what came out as expected.
"""
import argparse
import difflib
import os
import shutil
import subprocess
import sys
import tempfile

SKIPPED = 77
TIMEOUT_SECONDS = 300


def prepare(folder, args):
    os.mkdir(os.path.join(folder, "bin"))
    os.symlink(os.path.abspath(args.upg), os.path.join(folder, "bin", "upg"))
    work = os.path.join(folder, "work")
    os.mkdir(work)
    os.symlink(os.path.abspath(args.data), os.path.join(work, "data"))
    if os.path.exists(args.micro):
        os.symlink(os.path.abspath(args.micro), os.path.join(work, "micro.upg"))
    # The tools written in Python and bash, and those that are built, beside MICRO.upg.
    tools = ":".join(os.path.join(os.path.dirname(os.path.abspath(path)), "tools")
                     for path in (__file__, args.micro))
    environment = dict(os.environ, LC_ALL="C.UTF-8", TERM="dumb", PYTHONDONTWRITEBYTECODE="1",
                       PATH=os.path.join(folder, "bin") + ":" + tools + ":" + os.environ["PATH"])
    return work, environment


def run(case, args):
    with tempfile.TemporaryDirectory(prefix="upg-cli-") as folder:
        work, environment = prepare(folder, args)
        return subprocess.run(["bash", case], cwd=work, env=environment, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False,
                              timeout=TIMEOUT_SECONDS)


def expected(base, suffix):
    try:
        with open(base + suffix, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return b""


def update(base, suffix, got, default):
    if got == default:
        if os.path.exists(base + suffix):
            os.unlink(base + suffix)
    else:
        with open(base + suffix, "wb") as file:
            file.write(got)


def compare(what, want, got):
    if want == got:
        return 0
    print(f"{what} differs:")
    lines = difflib.unified_diff(want.decode("utf-8", "backslashreplace").splitlines(),
                                 got.decode("utf-8", "backslashreplace").splitlines(),
                                 "expected", "got", lineterm="")
    print("\n".join(lines))
    return 1


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--upg", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--micro", required=True)
    parser.add_argument("--update", action="store_true")
    parser.add_argument("case")
    args = parser.parse_args()
    case = os.path.abspath(args.case)
    base = os.path.splitext(case)[0]
    result = run(case, args)
    code = b"%d\n" % result.returncode
    if result.returncode == SKIPPED:
        print("skipped:", result.stdout.decode(errors="replace").strip())
        return SKIPPED
    if args.update:
        update(base, ".stdout", result.stdout, b"")
        update(base, ".stderr", result.stderr, b"")
        update(base, ".exit", code, b"0\n")
        return 0
    failures = compare("stdout", expected(base, ".stdout"), result.stdout)
    failures += compare("stderr", expected(base, ".stderr"), result.stderr)
    failures += compare("exit code", expected(base, ".exit") or b"0\n", code)
    return 1 if failures else 0


if __name__ == "__main__":
    if shutil.which("bash") is None:
        print("skipped: no bash")
        sys.exit(SKIPPED)
    sys.exit(main())

"""Makes upg/_abi.py, the declarations that cffi needs, from the public headers.

usage: make_abi.py C_COMPILER OUTPUT.py HEADER ...

The C preprocessor expands the headers' macros, so nothing is written twice: what upg.h says is what
Python calls. A header of another ABI version gives another module."""
import re
import subprocess
import sys

from cffi import FFI


def declarations(compiler, headers):
    """The headers' declarations as cffi parses them."""
    text = "\n".join(open(path, encoding="utf-8").read() for path in headers)
    text = re.sub(r"^\s*#\s*include.*$", "", text, flags=re.MULTILINE)
    # A macro's value is gone after preprocessing; an enumerator stays.
    text += "\nenum { UPG_HEADER_ABI_VERSION = UPG_ABI_VERSION };\n"
    # Without __GNUC__ the attributes expand to nothing.
    command = [compiler, "-E", "-P", "-x", "c", "-U__GNUC__", "-"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"make_abi.py: {' '.join(command)} failed:\n{done.stderr}")
    return done.stdout


def main():
    compiler, output, *headers = sys.argv[1:]
    ffi = FFI()
    ffi.set_source("upg._abi", None)
    ffi.cdef(declarations(compiler, headers))
    ffi.emit_python_code(output)


if __name__ == "__main__":
    main()

"""The declarations that cffi made of upg.h are what the C compiler makes of it, and another library
is refused."""
import os
import re
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

import upg
from upg import errors
from upg._library import ffi, lib

COMPILER = os.environ.get("CC", "cc")


def structs():
    names, _, _ = ffi.list_types()
    for name in names:
        kind = ffi.typeof(name)
        if kind.kind != "struct":
            continue
        try:
            ffi.sizeof(name)
        except ffi.error:  # opaque
            continue
        yield name, kind


def test_struct_layouts(tmp_path):
    lines, want = [], []
    for name, kind in structs():
        lines.append(f'printf("{name} %zu\\n", sizeof({name}));')
        want.append(f"{name} {ffi.sizeof(kind)}")
        for field, f in kind.fields:
            if f.type.kind == "struct" or f.bitsize < 0:
                lines.append(f'printf("{name}.{field} %zu\\n", offsetof({name}, {field}));')
                want.append(f"{name}.{field} {f.offset}")
    assert len(list(structs())) >= 15 and len(want) > 100
    source = tmp_path / "layout.c"
    source.write_text("#include <stdio.h>\n#include <upg/upg.h>\nint main(void) {\n"
                      + "\n".join(lines) + "\nreturn 0; }\n")
    program = tmp_path / "layout"
    subprocess.run([COMPILER, "-I", ROOT / "include", source, "-o", program], check=True)
    assert subprocess.check_output([program], text=True).splitlines() == want


def test_every_function_is_there():
    """All that upg.h declares, the library exports."""
    text = (ROOT / "include/upg/upg.h").read_text() + (ROOT / "include/upg/status.h").read_text()
    names = set(re.findall(r"^UPG_(?:FN|API)\b[^(]*?(\w+)\(", text, re.MULTILINE))
    assert len(names) > 35
    for name in names:
        getattr(lib, name)


def test_status_values():
    """One exception class for each code, by the header's numbers."""
    text = (ROOT / "include/upg/status.h").read_text()
    codes = dict(re.findall(r"X\((?:E_)?(\w+), (\d+), ", text))
    assert {s.name: str(s.value) for s in upg.Status} == codes
    assert set(errors.CLASSES) == set(upg.Status) - {upg.Status.OK}
    for code, kind in errors.CLASSES.items():
        assert kind.code == code and getattr(upg, kind.__name__) is kind


def test_other_abi_is_refused(tmp_path):
    source = tmp_path / "other.c"
    source.write_text("unsigned upg_abi_version(void) { return 4711; }")
    other = tmp_path / "other.so"
    subprocess.run([COMPILER, "-shared", "-fPIC", source, "-o", other], check=True)
    done = subprocess.run([sys.executable, "-c", "import upg"], capture_output=True, text=True,
                          env={**os.environ, "UPG_LIBRARY": str(other)}, check=False)
    assert done.returncode == 1
    assert "ImportError" in done.stderr and "has ABI version 4711" in done.stderr


def test_missing_library_is_an_import_error(tmp_path):
    done = subprocess.run([sys.executable, "-c", "import upg"], capture_output=True, text=True,
                          env={**os.environ, "UPG_LIBRARY": str(tmp_path / "none.so")}, check=False)
    assert done.returncode == 1 and "ImportError: upg cannot load" in done.stderr


@pytest.mark.parametrize("kind, base", [
    (upg.NotFoundError, FileNotFoundError), (upg.ExistsError, FileExistsError),
    (upg.IoError, OSError), (upg.NoSpaceError, OSError), (upg.OutOfMemoryError, MemoryError),
    (upg.ArgumentError, ValueError), (upg.FormatError, ValueError),
])
def test_python_bases(kind, base):
    e = kind("words", 2)
    assert isinstance(e, base) and isinstance(e, upg.UpgError)
    assert str(e) == e.message == "words" and e.os_errno == 2


def test_version():
    text = (ROOT / "include/upg/status.h").read_text()
    assert f'#define UPG_VERSION "{upg.__version__}"' in text
    assert shutil.which(COMPILER)

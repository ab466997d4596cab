#!/usr/bin/env python3
"""Compile the BPF object that the repository holds: hogpipe/linux/bpf/hogpipe.bpf.o.

    python packaging/build_bpf.py            compile; write the object and its checksums
    python packaging/build_bpf.py --check    compare the checksums only; needs no compiler

The compiler is clang as in the PyPI package `ziglang`, whose version pyproject.toml pins, with the
kernel headers that it carries: the same sources give the same bytes on every machine. The object
runs on any machine of its byte order; compile on a big-endian machine for one such.

Algorithm: libbpf needs BTF, which clang writes only together with DWARF, three times as large and
not needed. So the sources are compiled to assembler text, the sections of DWARF are left out of
that text, and the rest is assembled.

hogpipe.bpf.sha256 has a line for each source and one for the object, in the format of sha256sum(1).
Exit code: 0; 1 if `--check` finds a difference or the compilation fails.
"""

import argparse
import hashlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

BPF = Path(__file__).resolve().parent.parent / "hogpipe/linux/bpf"
OBJECT = BPF / "hogpipe.bpf.o"
CHECKSUMS = BPF / "hogpipe.bpf.sha256"
# Version 3 of the instruction set has atomic operations that return the old value (Linux 5.12, on
# arm64 5.18). The names of files are relative, so that no path of the machine is in the object.
_OPTIONS = (
    "-O2", "-Wall", "-Wextra", "-Werror", "-Wno-unused-command-line-argument",
    "-mcpu=v3", "-fdebug-compilation-dir=.",
)  # fmt: skip
_DWARF = re.compile(r'\s*\.section\s+"?\.debug')
_SECTION = re.compile(r"\s*\.(section|text|data|bss)\b")
_DEBUG_DIRECTIVE = re.compile(r"\s*\.(loc|file|cfi_\w+)\b")


class CompileError(Exception):
    """The sources do not compile; the text is the compiler's."""


def list_sources(folder: Path = BPF) -> list[Path]:
    """Return the C sources of the object."""
    return sorted(folder.glob("*.bpf.[ch]"))


def compile_object(source: Path, target: Path, options: Sequence[str] = ()) -> None:
    """Compile one C file, with its headers beside it. Raises CompileError."""
    import ziglang  # noqa: PLC0415 - `--check` does without

    package = Path(ziglang.__file__).parent
    headers = package / "lib/libc/include"
    order = {"little": "bpfel", "big": "bpfeb"}[sys.byteorder]
    includes = [f"-isystem{headers / name}" for name in ("any-linux-any", "x86-linux-any")]
    zig = [str(package / "zig"), "cc", "-target", f"{order}-freestanding", *_OPTIONS]
    with tempfile.TemporaryDirectory() as work:
        text, rest = Path(work, "all.s"), Path(work, "rest.s")
        _run(
            [*zig, *includes, *options, "-g", "-S", source.name, "-o", str(text)],
            source.parent,
            work,
        )
        with rest.open("w") as file:
            file.writelines(_without_dwarf(text.read_text().splitlines(keepends=True)))
        _run([*zig, "-c", str(rest), "-o", str(target.resolve())], source.parent, work)


def read_checksums() -> str:
    """Return the text of the file of checksums for the files as they are now."""
    files = [*list_sources(), OBJECT]
    sums = ((hashlib.sha256(file.read_bytes()).hexdigest(), file.name) for file in files)
    return "".join(f"{digest}  {name}\n" for digest, name in sums)


def find_problem() -> str:
    """Return that the object is not that of its sources, with the remedy; empty if it is."""
    if CHECKSUMS.read_text() == read_checksums():
        return ""
    return f"{OBJECT.name} is not that of its sources; run: python packaging/build_bpf.py"


def _run(command: list[str], folder: Path, cache: str) -> None:
    caches = {"ZIG_LOCAL_CACHE_DIR": cache, "ZIG_GLOBAL_CACHE_DIR": cache}
    done = subprocess.run(  # noqa: S603
        command, cwd=folder, env=os.environ | caches, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise CompileError(done.stderr.strip())


def _without_dwarf(lines: Iterable[str]) -> Iterator[str]:
    dropped = False
    for line in lines:
        if _SECTION.match(line):
            dropped = bool(_DWARF.match(line))
        if not dropped and not _DEBUG_DIRECTIVE.match(line):
            yield line


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="compare the checksums only")
    if parser.parse_args().check:
        sys.exit(find_problem() or 0)
    try:
        compile_object(BPF / "hogpipe.bpf.c", OBJECT)
    except CompileError as error:
        sys.exit(str(error))
    CHECKSUMS.write_text(read_checksums())


if __name__ == "__main__":
    main()

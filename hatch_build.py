"""Compiles the BPF object when a wheel is built, also one for an editable installation.

Without clang the wheel has no object: hogpipe then works without eBPF, and `hogpipe doctor` says
what to install. The object is for machines of the same byte order as the one that builds it.
"""

import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_SOURCE = "hogpipe/linux/bpf/hogpipe.bpf.c"
_OBJECT = "hogpipe/linux/bpf/hogpipe.bpf.o"
# libbpf reads the shapes of tables from the type information (BTF) that comes with -g. The third
# version of the instructions has atomic operations that return what was there (Linux 5.12, arm64:
# 5.18).
_OPTIONS = ("-O2", "-g", "-Wall", "-Wextra", "-Werror", "-target", "bpf", "-mcpu=v3")


class BpfBuildHook(BuildHookInterface[Any]):
    """Called by hatchling for each wheel."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        """Compile the object and have it packed."""
        compiled = Path(self.root, _OBJECT)
        compiled.unlink(missing_ok=True)  # one of an older source would be packed in its place
        clang = shutil.which("clang")
        if clang is None:
            self.app.display_warning(
                "hogpipe: no clang, so this build is without eBPF (Debian: apt install clang "
                "linux-libc-dev)"
            )
            return
        command = [clang, *_OPTIONS, *_multiarch(), "-c", _SOURCE, "-o", _OBJECT]
        done = subprocess.run(  # noqa: S603
            command, cwd=self.root, capture_output=True, text=True, check=False
        )
        if done.returncode:
            compiled.unlink(missing_ok=True)
            self.app.display_warning(
                f"hogpipe: clang could not compile {_SOURCE}, so this build is without eBPF "
                f"(Debian: apt install linux-libc-dev):\n{done.stderr}"
            )
            return
        build_data["artifacts"].append(_OBJECT)

    def clean(self, versions: list[str]) -> None:  # noqa: ARG002
        """Remove what `initialize` made."""
        Path(self.root, _OBJECT).unlink(missing_ok=True)


def _multiarch() -> list[str]:
    """Return where Debian keeps <asm/types.h>, which clang does not look into for BPF."""
    folder = Path("/usr/include", f"{platform.machine()}-linux-gnu")
    return [f"-I{folder}"] if folder.is_dir() else []

"""Compiles the BPF object when a wheel is built, including that of an editable installation.

Without clang, or if the compilation fails, the wheel has no object and the build warns: hogpipe
then works without eBPF, and `hogpipe doctor` says what to install. The object runs on any machine
of the byte order of the one that builds it.
"""

import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_SOURCE = "hogpipe/linux/bpf/hogpipe.bpf.c"
_OBJECT = "hogpipe/linux/bpf/hogpipe.bpf.o"
# libbpf reads the shapes of maps from the BTF that -g adds, and the loader those of structs. The
# third version of the instruction set has atomic operations that return the old value (Linux 5.12,
# on arm64 5.18).
_OPTIONS = ("-O2", "-g", "-Wall", "-Wextra", "-Werror", "-target", "bpf", "-mcpu=v3")


class BpfBuildHook(BuildHookInterface[Any]):
    """Called by hatchling for each wheel."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        """Compile the object and add it to the wheel."""
        compiled = Path(self.root, _OBJECT)
        compiled.unlink(missing_ok=True)  # else one of older sources would be packed
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
    """Return the option for Debian's folder of <asm/types.h>, which clang ignores for BPF."""
    folder = Path("/usr/include", f"{platform.machine()}-linux-gnu")
    return [f"-I{folder}"] if folder.is_dir() else []

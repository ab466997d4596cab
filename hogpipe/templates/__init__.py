"""The files that `hogpipe init` writes: a configuration, and the systemd unit with one for it.

`hogpipe plugins new` writes a package (new_plugin.py).

In: what is wanted, and the folder that they go to. Out: the paths that were written. A file that
exists is never replaced: an error names it, and nothing is written. The templates beside this
module are links into the repository; in an installed package they are files.
"""

from importlib.resources import files
from pathlib import Path

from hogpipe.errors import HogpipeError

CONFIG = Path("config.toml")
SERVICE_CONFIG = Path("etc/hogpipe/config.toml")
UNIT = Path("etc/systemd/system/hogpipe.service")
DROP_INS = UNIT.with_name("hogpipe.service.d")
_PROGRAM = "/usr/bin/hogpipe"  # of the unit in the repository
_HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # noqa: S108 - ProtectHome, PrivateTmp


def write_config(folder: Path) -> list[Path]:
    """Write a configuration with every key into `folder`. Raises HogpipeError."""
    return write_files({folder / CONFIG: _read("config.toml")})


def write_service(root: Path, program: Path, drop_ins: tuple[str, ...]) -> list[Path]:
    """Write the unit that starts `program`, its configuration, and drop-ins, below `root`.

    Raises HogpipeError, also for a program that the unit could not start.
    """
    for hidden in _HIDDEN:
        if program.is_relative_to(hidden):
            raise HogpipeError(
                f"{program}: the unit sees nothing below {hidden}; install hogpipe elsewhere, such "
                "as in /opt/hogpipe"
            )
    unit = _read("hogpipe.service").replace(f"ExecStart={_PROGRAM} ", f"ExecStart={program} ")
    contents = {root / SERVICE_CONFIG: _read("service.toml"), root / UNIT: unit}
    contents |= {root / DROP_INS / f"{name}.conf": _read(f"{name}.conf") for name in drop_ins}
    return write_files(contents)


def _read(name: str) -> str:
    return files(__name__).joinpath(name).read_text(encoding="utf-8")


def write_files(contents: dict[Path, str]) -> list[Path]:
    """Write new files with the folders above them. Raises HogpipeError."""
    for path in contents:
        if path.exists():
            raise HogpipeError(f"{path} exists; move it away, or name another folder")
    try:
        for path, text in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        raise HogpipeError(f"{error.filename}: {error.strerror}") from error
    return list(contents)

"""The package that `hogpipe plugins new` writes: a sink, and a test of each promise of sinks.

In: a name. Out: the files of a package that can be installed and whose tests pass. Raises
HogpipeError for a name that cannot be one, and for a folder that exists.

The sink and its test are those of the guide, docs/plugins.md, with another name: `plugin/` has
links to them, which are files in an installed package.
"""

import re
from importlib.resources import files
from pathlib import Path

from hogpipe.errors import HogpipeError
from hogpipe.sinks.builtin import hogpipe_sinks
from hogpipe.templates import write_files

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_SAMPLE = "forward"
"""The name in the templates; `example_` is before it in the name of the guide's module."""


def write_plugin(name: str, folder: Path) -> list[Path]:
    """Write the package of a sink type `name` into the folder `hogpipe-NAME` in `folder`."""
    _check(name)
    module = f"hogpipe_{name.replace('-', '_')}"
    root = folder / f"hogpipe-{name}"
    if root.exists():
        raise HogpipeError(f"{root} exists; move it away, or choose another name")
    sources = {
        root / "pyproject.toml": "pyproject.toml",
        root / "README.md": "README.md",
        root / module / "__init__.py": "sink.py.txt",
        root / "tests" / f"test_{module}.py": "promises.py.txt",
    }
    contents = {path: _rename(_read(source), name) for path, source in sources.items()}
    return write_files(contents | {root / module / "py.typed": ""})


def _check(name: str) -> None:
    if _NAME.fullmatch(name) is None:
        raise HogpipeError(
            f"{name!r} cannot be a name: small letters and digits, with single dashes between them"
        )
    if name in {one.name for one in hogpipe_sinks()}:
        raise HogpipeError(f"{name!r} is a sink type of hogpipe; choose another name")


def _rename(text: str, name: str) -> str:
    """Return a template with `name` for the sample's: in modules, classes, packages and texts."""
    module = name.replace("-", "_")
    classes = "".join(word.capitalize() for word in name.split("-"))
    texts = {
        f"example_{_SAMPLE}": f"hogpipe_{module}",
        f"hogpipe_{_SAMPLE}": f"hogpipe_{module}",
        f"test_{_SAMPLE}": f"test_{module}",
        f"{_SAMPLE.upper()}_TOKEN": f"{module.upper()}_TOKEN",
        _SAMPLE.capitalize(): classes,
        _SAMPLE: name,
    }
    return re.sub("|".join(texts), lambda found: texts[found[0]], text)


def _read(source: str) -> str:
    return files("hogpipe.templates").joinpath("plugin", source).read_text(encoding="utf-8")

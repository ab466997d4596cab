"""Modules from single files, under names of their own; `sys.path` is left alone."""

import importlib.util
import sys
from hashlib import sha256
from pathlib import Path
from types import ModuleType


def load_module(path: Path) -> ModuleType:
    """Import the file at `path`, anew each time; raises OSError or what the file itself raises."""
    name = _module_name(path)
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file: a plugin is a .py file or a folder of them")
    module = importlib.util.module_from_spec(spec)
    # It must be known while it runs: dataclasses and msgspec look up their modules by name.
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def forget_module(path: Path) -> None:
    """Take the file at `path` out of the loaded modules, if it is there."""
    sys.modules.pop(_module_name(path), None)


def _module_name(path: Path) -> str:
    """Return a name that tells the file, and that no file of the same stem elsewhere has."""
    digest = sha256(bytes(path.resolve())).hexdigest()
    return f"hogpipe_plugin_{path.stem}_{digest[:12]}"

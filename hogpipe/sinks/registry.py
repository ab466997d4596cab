"""The sink types of hogpipe itself, of installed packages and of single files.

In: the paths and names of the `[plugins]` table. Out: a `Registry`. A plugin that fails harms no
other: none of its sink types is registered, and its `PluginInfo` has the error. Only
KeyboardInterrupt is raised.

A single file is imported as a module of its own name, which no file of the same name elsewhere has;
`sys.path` stays unchanged. It is compiled each time: whoever may write to its folder, such as /tmp,
could place bytecode of another program in `__pycache__`.
"""

import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from importlib.machinery import SourceFileLoader
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import CodeType, ModuleType
from typing import Literal

import msgspec
import orjson
from pluggy import PluginManager

from hogpipe.files import require_regular
from hogpipe.sinks import builtin, hookspecs
from hogpipe.sinks.contract import SinkSettings, SinkType
from hogpipe.sinks.plugin_errors import describe_bug
from hogpipe.text import printable
from hogpipe.version import __version__


@dataclass(frozen=True, slots=True)
class PluginInfo:
    """A plugin, as `hogpipe plugins` lists it; `error` is one printable line."""

    name: str
    """Its name in `[plugins] disabled`: `builtin`, that of the entry point, or the file's stem."""
    origin: str
    """`built-in`, the distribution's name and version, or the file's path."""
    version: str | None = None
    sinks: tuple[str, ...] = ()
    state: Literal["built-in", "loaded", "disabled", "failed"] = "loaded"
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Registry:
    """The sink types by name, and the plugins in the order in which they were loaded."""

    sink_types: Mapping[str, SinkType[SinkSettings]]
    plugins: Sequence[PluginInfo]

    @property
    def failures(self) -> Sequence[PluginInfo]:
        """The plugins that failed to load."""
        return [plugin for plugin in self.plugins if plugin.state == "failed"]


def encode_plugin(plugin: PluginInfo) -> str:
    """Return a plugin as one JSON object, without the keys that are None."""
    keys = {key: value for key, value in asdict(plugin).items() if value is not None}
    return orjson.dumps(keys).decode()


def load_plugins(
    paths: Sequence[Path],
    disabled: Sequence[str],
    find_distrust: Callable[[Path], str | None] = lambda _path: None,
) -> Registry:
    """Return the sink types of hogpipe, of entry points, and of the files under `paths`.

    A folder stands for each `*.py` in it that does not begin with `_`. If two plugins offer the
    same sink type, the later one fails. A `disabled` plugin is not imported. A file for which
    `find_distrust` returns a reason fails.
    """
    loader = _Loader(frozenset(disabled), find_distrust)
    loader.add(PluginInfo("builtin", "built-in", __version__, state="built-in"), builtin)
    for entry_point in sorted(entry_points(group=hookspecs.PROJECT)):
        loader.add(_describe_entry_point(entry_point), entry_point)
    for path in dict.fromkeys(_find_files(paths)):
        loader.add(PluginInfo(printable(path.stem), printable(str(path))), path)
    return Registry(loader.sink_types, loader.plugins)


def _describe_entry_point(entry_point: EntryPoint) -> PluginInfo:
    name, distribution = printable(entry_point.name), entry_point.dist
    if distribution is None:
        return PluginInfo(name, printable(entry_point.value))
    version = printable(distribution.version)
    return PluginInfo(name, f"{printable(distribution.name)} {version}", version)


def _find_files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted(file for file in path.glob("*.py") if not file.name.startswith("_"))
        else:
            yield path


@dataclass(slots=True)
class _Loader:
    disabled: frozenset[str]
    find_distrust: Callable[[Path], str | None]
    sink_types: dict[str, SinkType[SinkSettings]] = field(default_factory=dict)
    plugins: list[PluginInfo] = field(default_factory=list)
    owners: dict[str, PluginInfo] = field(default_factory=dict)

    def add(self, info: PluginInfo, source: object) -> None:
        """Load a plugin from an entry point, a file or a module; register what it offers."""
        if info.name in self.disabled:
            self.plugins.append(replace(info, state="disabled"))
            return
        if isinstance(source, Path) and (reason := self.find_distrust(source)):
            self.plugins.append(replace(info, state="failed", error=reason))
            return
        try:
            # Text that a plugin prints must not mix with records on stdout.
            with redirect_stdout(sys.stderr):
                plugin = _import(source)
                _check_api_version(plugin)
                offered = self._check(_call_hook(plugin, info.name))
            info = replace(info, sinks=tuple(offered), version=info.version or _version(plugin))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - a plugin may raise any error
            if isinstance(source, Path):
                _unload_module(source)
            self.plugins.append(replace(info, state="failed", error=describe_bug(error)))
            return
        self.plugins.append(info)
        self.sink_types.update(offered)
        self.owners.update(dict.fromkeys(offered, info))

    def _check(self, offered: Sequence[object]) -> dict[str, SinkType[SinkSettings]]:
        checked: dict[str, SinkType[SinkSettings]] = {}
        for sink_type in offered:
            if not isinstance(sink_type, SinkType):
                raise TypeError(f"hogpipe_sinks must return SinkTypes, not {sink_type!r}")
            _check_type(sink_type)
            name = sink_type.name
            if name in checked:
                raise ValueError(f"it offers the sink type {name!r} twice")
            if owner := self.owners.get(name):
                raise ValueError(
                    f"the sink type {name!r} is taken by {owner.name} ({owner.origin})"
                )
            checked[name] = sink_type
        return checked


def _import(source: object) -> object:
    if isinstance(source, EntryPoint):
        return source.load()
    return load_module(source) if isinstance(source, Path) else source


def load_module(path: Path) -> ModuleType:
    """Import the file at `path`, every time it is called; raises OSError and the file's errors."""
    require_regular(path)
    name = _module_name(path)
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file: a plugin is a .py file or a folder of them")
    if isinstance(spec.loader, SourceFileLoader):
        spec.loader = _UncachedLoader(name, str(path))
    module = importlib.util.module_from_spec(spec)
    # Registered before it runs: dataclasses and msgspec find the module by its name.
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


class _UncachedLoader(SourceFileLoader):
    """Neither reads nor writes bytecode beside the file."""

    def get_code(self, fullname: str) -> CodeType:
        """Return the code of the file itself."""
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


def _unload_module(path: Path) -> None:
    sys.modules.pop(_module_name(path), None)


def _module_name(path: Path) -> str:
    digest = sha256(bytes(path.resolve())).hexdigest()
    return f"hogpipe_plugin_{path.stem}_{digest[:12]}"


def _call_hook(plugin: object, name: str) -> Sequence[object]:
    # A manager for each plugin: what it registers or breaks affects no other.
    manager = PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    manager.register(plugin, name)
    manager.check_pending()
    if not manager.hook.hogpipe_sinks.get_hookimpls():
        raise TypeError("it has no function hogpipe_sinks marked with @hookimpl")
    return [sink_type for offered in manager.hook.hogpipe_sinks() for sink_type in offered]


def _check_type(sink_type: SinkType[SinkSettings]) -> None:
    name: object = sink_type.name
    settings: object = sink_type.settings
    if not isinstance(name, str) or not name or not name.isprintable():
        raise TypeError(f"a sink type's name must be printable text, not {name!r}")
    if not isinstance(settings, type) or not issubclass(settings, SinkSettings):
        raise TypeError(f"the settings of {name!r} must be a subclass of SinkSettings")
    if not callable(sink_type.create):
        raise TypeError(f"the sink type {name!r} has nothing callable to create a sink")
    if not callable(sink_type.check):
        raise TypeError(f"the sink type {name!r} has nothing callable to check settings")
    msgspec.json.Decoder(settings)  # raises for types that no file can hold


def _check_api_version(plugin: object) -> None:
    wanted: object = getattr(plugin, "HOGPIPE_API", hookspecs.PLUGIN_API)
    if type(wanted) is not int or wanted < 1:
        raise TypeError(f"HOGPIPE_API must be a number such as {hookspecs.PLUGIN_API}")
    if wanted > hookspecs.PLUGIN_API:
        raise ImportError(
            f"it was made for plugin API {wanted}, and hogpipe has {hookspecs.PLUGIN_API}; "
            "upgrade hogpipe"
        )


def _version(plugin: object) -> str | None:
    version = getattr(plugin, "__version__", None)
    return printable(version) if isinstance(version, str) else None

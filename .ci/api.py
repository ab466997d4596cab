"""Write docs/api.md, the signatures of the public API, from the source.

`python .ci/api.py` writes the page; `python .ci/api.py --check` ends with 1 if it is not current.
Every name in `__all__` of the two public packages must be in one of the groups below.
"""

import ast
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "api.md"
HEAD = """\
# API reference

The public names of `hogpipe` and `hogpipe.testing`, with signatures and docstrings. Everything else
is internal. [plugins.md](plugins.md), [library.md](library.md) and [measure.md](measure.md) show
how to use them. This page is generated: `python .ci/api.py` writes it, and a test checks that it is
current.
"""
GROUPS: dict[str, dict[str, Sequence[str]]] = {
    "hogpipe": {
        "The pipeline as a library": ("stream_records", "load_config", "Settings"),
        "Measuring": (
            "measure",
            "watch",
            "Watch",
            "Traffic",
            "Totals",
            "Rates",
            "Peer",
            "Losses",
        ),
        "Sinks": ("hookimpl", "SinkType", "Sink", "SinkSettings", "Seconds", "SettingProblem"),
        "JSON and TLS": (
            "JsonSettings",
            "JsonEncoder",
            "TlsSettings",
            "find_tls_problems",
            "load_tls_context",
        ),
        "HTTP": (
            "HttpClient",
            "HttpAnswer",
            "describe_answer",
            "describe_redirect",
            "find_url_problem",
            "find_header_problems",
            "extend_url",
            "name_place",
        ),
        "Listening": ("parse_listen", "explain_listen_error"),
        "Helpers": (
            "raise_problems",
            "describe_connection_error",
            "run_shielded",
            "record_id",
            "replace_unprintable",
        ),
        "Records": ("Record", "TrafficRecord", "StatsRecord"),
        "History": ("HistoryReader",),
        "Health": ("parse_tcp", "TcpHealth", "join_health"),
        "Errors": (
            "HogpipeError",
            "ConfigurationError",
            "InUseError",
            "NotPermittedError",
            "CaptureError",
            "DeliveryError",
            "RefusedError",
            "OutputClosedError",
        ),
        "Versions": ("PLUGIN_API", "__version__"),
    },
    "hogpipe.testing": {
        "The check of a sink": (
            "check_sink",
            "SinkCase",
            "Findings",
            "PROMISES",
            "BrokenPromiseError",
        ),
        "Making sinks and records": (
            "make_sink",
            "read_settings",
            "RecordMaker",
            "RecordingSink",
            "total_bytes",
        ),
        "Outages": ("deliver_through_outages", "OutageReport", "opened"),
        "Receivers": ("running_program", "suspended", "free_ports", "oversized", "enlarge"),
        "Documentation": ("check_key_table", "find_code_blocks"),
    },
}
Function = ast.FunctionDef | ast.AsyncFunctionDef
Definition = Function | ast.ClassDef | ast.Assign | ast.AnnAssign


class Module:
    """The source of a module: its definitions, and what it imports from where."""

    def __init__(self, name: str) -> None:
        path = ROOT / name.replace(".", "/")
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        self.source = file.read_text()
        body = ast.parse(self.source).body
        # `if TYPE_CHECKING:` has the imports of exports that are imported when they are used.
        inner = [one for node in body if isinstance(node, ast.If) for one in node.body]
        self.body = [*body, *inner]

    def exports(self) -> list[str]:
        """Return `__all__`."""
        for node in self.body:
            if isinstance(node, ast.Assign) and _names_of(node) == ["__all__"]:
                names: list[str] = ast.literal_eval(node.value)
                return names
        return []

    def text(self, node: ast.AST) -> str:
        """Return the source of `node`."""
        return ast.get_source_segment(self.source, node) or ""

    def find(self, name: str) -> tuple["Module", int]:
        """Return the module that defines `name`, and the index of the definition in its body."""
        for index, node in enumerate(self.body):
            if isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    if name in (alias.asname, alias.name):
                        return Module(node.module).find(alias.name)
            elif name in _names_of(node):
                return self, index
        raise SystemExit(f"api.py: no definition of {name}")


def _names_of(node: ast.AST) -> list[str]:
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return [node.name]
        case ast.Assign(targets=[ast.Name(name)]) | ast.AnnAssign(target=ast.Name(name)):
            return [name]
        case _:
            return []


def _docstring_below(body: Sequence[ast.stmt], index: int) -> str:
    """Return the string that stands below an assignment as its documentation."""
    match body[index + 1 : index + 2]:
        case [ast.Expr(value=ast.Constant(value=str(text)))]:
            return " ".join(text.split())
        case _:
            return ""


def _signature(module: Module, node: Function) -> str:
    """Return the signature as the source has it, with decorators that change how it is called."""
    end = node.body[0].lineno - 1
    lines = module.source.splitlines()[node.lineno - 1 : end]
    if not lines:  # the body is on the line of the signature
        lines = [module.source.splitlines()[node.lineno - 1].rpartition(":")[0] + ":"]
    decorators = [f"@{module.text(one)}" for one in node.decorator_list]
    text = "\n".join(line.removeprefix(" " * node.col_offset) for line in lines)
    return "\n".join([*decorators, text.rstrip().rstrip(":")])


def _block(code: str) -> str:
    return f"```python\n{code}\n```"


def _write_function(module: Module, node: Function) -> Iterator[str]:
    yield _block(_signature(module, node))
    yield ast.get_docstring(node) or ""


def _write_class(module: Module, node: ast.ClassDef) -> Iterator[str]:
    bases = ", ".join(module.text(base) for base in node.bases)
    yield _block(f"class {node.name}({bases})" if bases else f"class {node.name}")
    yield ast.get_docstring(node) or ""
    fields = [
        (one, index)
        for index, one in enumerate(node.body)
        if isinstance(one, ast.AnnAssign) and not _names_of(one)[0].startswith("_")
    ]
    if fields:
        yield "\n".join(
            ["| field | type | default | meaning |", "|---|---|---|---|"]
            + [_write_field(module, one, node.body, index) for one, index in fields]
        )
        yield from _write_aliases(module, [one.annotation for one, _ in fields])
    for one in node.body:
        if isinstance(one, Function) and (not one.name.startswith("_") or _takes_arguments(one)):
            yield from _write_function(module, one)


def _write_aliases(module: Module, annotations: Sequence[ast.expr]) -> Iterator[str]:
    """Write the type aliases of the module that annotations use."""
    used = {
        name.id
        for annotation in annotations
        for name in ast.walk(annotation)
        if isinstance(name, ast.Name)
    }
    aliases = [
        module.text(node)
        for node in module.body
        if isinstance(node, ast.Assign) and used & set(_names_of(node))
    ]
    if aliases:
        yield _block("\n".join(aliases))


def _takes_arguments(node: Function) -> bool:
    """Return whether this is a constructor that takes something."""
    arguments = [*node.args.args[1:], *node.args.kwonlyargs]
    return node.name == "__init__" and bool(arguments)


def _write_field(module: Module, node: ast.AnnAssign, body: Sequence[ast.stmt], index: int) -> str:
    def cell(part: ast.AST | None) -> str:
        text = " ".join(module.text(part).split()) if part else ""
        return f"`{text}`".replace("|", "\\|") if text else ""

    meaning = _docstring_below(body, index).replace("|", "\\|")
    return f"| `{_names_of(node)[0]}` | {cell(node.annotation)} | {cell(node.value)} | {meaning} |"


def _write_constant(module: Module, index: int) -> Iterator[str]:
    yield _block(module.text(module.body[index]))
    yield _docstring_below(module.body, index)


def _write_name(package: Module, name: str) -> Iterator[str]:
    module, index = package.find(name)
    yield f"#### {name}"
    match module.body[index]:
        case ast.FunctionDef() | ast.AsyncFunctionDef() as function:
            yield from _write_function(module, function)
        case ast.ClassDef() as class_:
            yield from _write_class(module, class_)
        case _:
            yield from _write_constant(module, index)


def _write_page(packages: Mapping[str, Mapping[str, Sequence[str]]]) -> Iterator[str]:
    yield HEAD.strip()
    for package_name, groups in packages.items():
        package = Module(package_name)
        grouped = [name for names in groups.values() for name in names]
        if sorted(grouped) != sorted(package.exports()):
            names = ", ".join(sorted(set(grouped) ^ set(package.exports())))
            raise SystemExit(f"api.py: {package_name}: put in GROUPS, or take out: {names}")
        yield f"## {package_name}"
        for title, names in groups.items():
            yield f"### {title}"
            for name in names:
                yield from _write_name(package, name)


def main() -> None:
    text = "\n\n".join(part for part in _write_page(GROUPS) if part) + "\n"
    if sys.argv[1:] != ["--check"]:
        PAGE.write_text(text)
    elif not PAGE.exists() or PAGE.read_text() != text:
        sys.exit("docs/api.md is not current: python .ci/api.py")


main()

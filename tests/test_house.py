"""The layout keeps its rules.

`linux` owns kernel interfaces, no two modules share a name, the docstring of a package names its
modules, and an import contract covers each module that says that it is pure.
"""

import ast
import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "hogpipe"
MODULES = sorted(PACKAGE.rglob("*.py"))
PACKAGES = [path.parent for path in MODULES if path.name == "__init__.py"]
OUTSIDE = [path for path in MODULES if PACKAGE / "linux" not in path.parents]
# The mount point alone is a default of a setting; a path below it is a file to open.
FOLDERS = ("/proc/", "/sys/")
PLUGINS = sorted((PACKAGE.parent / "plugins").glob("*/hogpipe_*/*.py"))
PYPROJECT = PACKAGE.parent / "pyproject.toml"
KERNEL_NAMES = {"AF_NETLINK", "CDLL", "setns", "unshare"}


def name(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def docstrings(tree: ast.Module) -> Iterator[ast.AST]:
    """Yield the string statements: docstrings, and the comments that stand under attributes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            yield node.value


def is_procfs(node: ast.expr) -> bool:
    """Return whether a name or an attribute is called after the root of a procfs."""
    name = getattr(node, "id", "") or getattr(node, "attr", "")
    return name.lower().endswith("procfs")


def is_below_procfs(node: ast.AST) -> bool:
    """Return whether an expression makes a path below a procfs, or lists it."""
    match node:
        case ast.BinOp(left=root, op=ast.Div()):
            return is_procfs(root)
        case ast.Attribute(value=root, attr="glob" | "iterdir" | "joinpath" | "rglob"):
            return is_procfs(root)
        case _:
            return False


def kernel_interfaces(tree: ast.Module) -> Iterator[str]:
    """Yield what a module opens that only `linux` may open."""
    prose = set(docstrings(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in KERNEL_NAMES:
            yield node.attr
        elif isinstance(node, ast.alias) and node.name in KERNEL_NAMES:
            yield node.name
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in prose:
            yield from (one for one in FOLDERS if node.value.startswith(one))
        elif is_below_procfs(node):
            yield ast.unparse(node)


@pytest.mark.parametrize("path", OUTSIDE, ids=name)
def test_only_the_linux_package_opens_proc_and_netlink(path: Path) -> None:
    assert list(kernel_interfaces(ast.parse(path.read_text()))) == []


def test_the_rule_sees_what_the_linux_package_opens() -> None:
    inside = [path for path in MODULES if path not in OUTSIDE]
    found = {one for path in inside for one in kernel_interfaces(ast.parse(path.read_text()))}
    assert {"AF_NETLINK", "CDLL", "/proc/", "procfs / 'self'"} <= found


def test_no_two_modules_have_one_name() -> None:
    stems = Counter(path.stem for path in MODULES if path.stem not in {"__init__", "__main__"})
    assert [stem for stem, number in stems.items() if number > 1] == []


@pytest.mark.parametrize("package", PACKAGES, ids=name)
def test_the_docstring_of_a_package_names_its_modules(package: Path) -> None:
    docstring = ast.get_docstring(ast.parse((package / "__init__.py").read_text())) or ""
    modules = {path.stem for path in package.glob("*.py")} - {"__init__", "__main__", "version"}
    inner = {path.parent.name for path in package.glob("*/__init__.py")}
    assert sorted((modules | inner) - set(re.findall(r"\w+", docstring))) == []


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


def says_pure(path: Path) -> bool:
    """Return whether a line of the module's docstring begins with PURE."""
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
    return any(line.startswith("PURE") for line in docstring.splitlines())


def read_contract(name: str) -> dict[str, list[str]]:
    """Return the import contract whose name begins with `name`."""
    contracts = tomllib.loads(PYPROJECT.read_text())["tool"]["importlinter"]["contracts"]
    (contract,) = (one for one in contracts if one["name"].startswith(name))
    return dict(contract)


def test_every_package_but_linux_is_kept_from_libc() -> None:
    parts = {module_name(path).split(".")[1] for path in OUTSIDE if path != PACKAGE / "__init__.py"}
    listed = read_contract("only hogpipe.linux")["source_modules"]
    assert sorted(listed) == sorted(f"hogpipe.{part}" for part in parts)


def test_modules_that_say_pure_are_held_to_it() -> None:
    listed = read_contract("pure modules")["source_modules"]
    say_so = [module_name(path) for path in MODULES if says_pure(path)]
    held = {name for name in say_so for one in listed if f"{name}.".startswith(f"{one}.")}
    assert sorted(set(say_so) - held) == []
    assert sorted(set(listed) - set(say_so)) == []


def test_modules_of_plugins_that_say_pure_import_nothing_that_does_input_or_output() -> None:
    pure = [path for path in PLUGINS if says_pure(path)]
    forbidden = set(read_contract("pure modules")["forbidden_modules"]) - {"pathlib"}
    assert pure
    for path in pure:
        imported = {name.split(".")[0] for name in imports(ast.parse(path.read_text()))}
        assert not imported & forbidden, path


def imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def test_no_dict_evicts_its_first_key_past_all_keys_that_were_deleted() -> None:
    """`OrderedDict.popitem(last=False)` takes the same time whatever was deleted before."""
    scans = re.compile(r"del [\w.]+\[next\(iter\(")
    assert [path for path in (*MODULES, *PLUGINS) if scans.search(path.read_text())] == []

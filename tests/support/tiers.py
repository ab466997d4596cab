"""The tier of a test, found from its folder and from what it calls (CONTRIBUTING.md lists tiers).

A test needs root if it, one of its fixtures or a helper that they call reaches `require` or
`namespace` of support.namespaces. Calls are followed by name through the functions and classes of
the tests; a call on an attribute is not followed. Its tier is `net` in tests/net, where each test
has network namespaces of its own, and `root` elsewhere.
"""

import inspect
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import CodeType, FunctionType

import pytest

from .namespaces import namespace, require

TESTS = Path(__file__).parent.parent
_NEED_ROOT = {require, inspect.unwrap(namespace)}


def choose_tier(item: pytest.Function) -> str:
    """Return the marker of a test: slow, bench, net, root or pure."""
    folder = item.path.relative_to(TESTS).parts[0]
    if folder in {"slow", "bench"}:
        return folder
    if not any(map(_needs_root, _list_functions(item))):
        return "pure"
    return "net" if folder == "net" else "root"


def _list_functions(item: pytest.Function) -> Iterator[Callable[..., object]]:
    """Return the test and its fixtures."""
    yield item.function
    for fixtures in item._fixtureinfo.name2fixturedefs.values():
        yield from (fixture.func for fixture in fixtures)


@cache  # thousands of tests share some functions
def _needs_root(function: Callable[..., object]) -> bool:
    return not _NEED_ROOT.isdisjoint(_follow(function, set()))


def _follow(called: object, seen: set[object]) -> set[object]:
    """Return what `called` reaches among functions and classes of the tests, itself included."""
    called = inspect.unwrap(called) if callable(called) else called
    if called in seen:
        return seen
    if inspect.isclass(called):
        seen.add(called)
        for member in vars(called).values():
            if inspect.isfunction(member):
                _follow(member, seen)
    elif inspect.isfunction(called) and _is_of_tests(called):
        seen.add(called)
        for name in _list_names(called.__code__):
            found = called.__globals__.get(name)
            if inspect.isclass(found) or inspect.isfunction(found):
                _follow(found, seen)
    return seen


def _is_of_tests(function: FunctionType) -> bool:
    return function.__code__.co_filename.startswith(f"{TESTS}/")


def _list_names(code: CodeType) -> Iterator[str]:
    """Return the global names that code uses, the functions inside it included."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _list_names(constant)

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from support.traffic import NGINX, attributions, exact

from hogpipe.aggregation.selectors import parse_selector
from hogpipe.model import UNATTRIBUTED, Attribution, Quality, User

WWW_DATA = Attribution(Quality.NONE, None, User(33, "www-data"))


@pytest.mark.parametrize(
    "text",
    [
        "pid:4242",
        "exe:nginx",
        "exe:ngin?",
        "exe:/usr/*/nginx",
        "unit:nginx.*",
        "container:1f2e*",
        "pod:7a1b*",
        "user:www-*",
        "user:33",
        "cgroup:/system.slice/*",
    ],
)
def test_a_selector_matches_the_process_it_describes(text: str) -> None:
    assert parse_selector(text).matches(exact(NGINX))


@pytest.mark.parametrize(
    "text",
    [
        "pid:424",
        "exe:Nginx",
        "exe:sbin",
        "exe:/sbin/nginx",
        "unit:nginx",
        "container:1f2e",
        "pod:7a1b",
        "user:root",
        "user:3",
        "cgroup:system.slice/*",
    ],
)
def test_a_selector_does_not_match_other_processes(text: str) -> None:
    assert not parse_selector(text).matches(exact(NGINX))


def test_a_process_without_a_pod_matches_no_pod_selector() -> None:
    assert not parse_selector("pod:*").matches(exact(replace(NGINX, pod=None)))


def test_processes_of_a_program_are_matched_however_much_is_known_of_each() -> None:
    selector = parse_selector("exe:nginx")
    assert selector.matches(exact(NGINX))
    assert selector.matches(
        exact(replace(NGINX, executable=None, command="nginx: worker", usual_name="nginx"))
    )


def test_the_command_is_matched_only_if_the_executable_is_unknown() -> None:
    selector = parse_selector("exe:worker")
    assert selector.matches(exact(replace(NGINX, executable=None, command="worker")))
    assert not selector.matches(exact(replace(NGINX, command="worker")))
    kernel_thread = replace(NGINX, executable=None, command="kworker/0:1")
    assert parse_selector("exe:kworker/*").matches(exact(kernel_thread))


@pytest.mark.parametrize("text", ["user:33", "user:www-data"])
def test_a_user_is_matched_even_if_the_process_is_unknown(text: str) -> None:
    assert parse_selector(text).matches(WWW_DATA)
    assert not parse_selector(text).matches(Attribution(Quality.NONE, None, User(0)))


@pytest.mark.parametrize("kind", ["exe", "unit", "container", "pod", "user", "cgroup"])
def test_an_unknown_value_is_not_matched_even_by_a_star(kind: str) -> None:
    assert not parse_selector(f"{kind}:*").matches(UNATTRIBUTED)


@pytest.mark.parametrize("text", ["", "nginx", "exe:", ":nginx", "comm:nginx", "PID:1"])
def test_a_text_that_is_no_selector_is_an_error_that_lists_the_kinds(text: str) -> None:
    with pytest.raises(ValueError, match="pid, exe, unit, container, pod, user, cgroup"):
        parse_selector(text)


@pytest.mark.parametrize("pid", ["nginx", "-1", "1.5", "\u0664\u0662", "1" * 5000])
def test_a_pid_that_is_not_a_number_is_an_error(pid: str) -> None:
    with pytest.raises(ValueError, match="a pid is a number"):
        parse_selector(f"pid:{pid}")


@settings(deadline=None)
@given(st.text(), attributions)
def test_no_text_makes_a_selector_that_fails_later(text: str, attribution: Attribution) -> None:
    for kind in ("exe", "unit", "container", "pod", "user", "cgroup"):
        try:
            selector = parse_selector(f"{kind}:{text}")
        except ValueError:
            assert text == ""
        else:
            assert selector.matches(attribution) in {True, False}

"""Fixtures that tests in several folders share, and the marker of each test's tier."""

import os
from collections.abc import Iterator

import hypothesis
import pytest
from support.certificates import Certificates, make_certificates
from support.namespaces import Namespace, host_and_container, namespace, pair, require
from support.tiers import TESTS, choose_tier

# No test fails because the host is busy.
hypothesis.settings.register_profile("hogpipe", deadline=None)
hypothesis.settings.load_profile("hogpipe")

# Under sudo, runs of the tests are those of root all the same (docs/security.md).
for _name in ("SUDO_UID", "SUDO_GID"):
    os.environ.pop(_name, None)

ADDRESSES = [("10.77.0.1/24", "10.77.0.2/24"), ("fd77::1/64", "fd77::2/64")]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with its tier, so that `-m` selects by it."""
    for item in items:
        if isinstance(item, pytest.Function) and item.path.is_relative_to(TESTS):
            item.add_marker(choose_tier(item))


@pytest.fixture
def root() -> None:
    """Skip the test without root."""
    require()


@pytest.fixture
def netns() -> Iterator[Namespace]:
    """A network namespace with only its loopback interface."""
    require("ip")
    with namespace() as made:
        yield made


@pytest.fixture
def veth() -> Iterator[tuple[Namespace, Namespace]]:
    """Two network namespaces with addresses of both families, joined by a wire."""
    require("ip")
    with pair(ADDRESSES) as both:
        yield both


@pytest.fixture
def container_veth() -> Iterator[tuple[Namespace, Namespace]]:
    """The same addresses, but the second namespace is a container of the first."""
    require("ip")
    with host_and_container(ADDRESSES) as both:
        yield both


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Certificates of a test authority, and of a second one that is not trusted."""
    return make_certificates(tmp_path_factory.mktemp("certificates"))

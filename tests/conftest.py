"""Fixtures that tests in several folders share."""

from collections.abc import Iterator

import pytest
from support.certificates import Certificates, make_certificates
from support.namespaces import Namespace, host_and_guest, namespace, pair, require

ADDRESSES = [("10.77.0.1/24", "10.77.0.2/24"), ("fd77::1/64", "fd77::2/64")]


@pytest.fixture
def netns() -> Iterator[Namespace]:
    """A network namespace with nothing but its loopback."""
    require("ip")
    with namespace() as made:
        yield made


@pytest.fixture
def veth() -> Iterator[tuple[Namespace, Namespace]]:
    """Two namespaces, joined by a veth with addresses of both families."""
    require("ip")
    with pair(ADDRESSES) as both:
        yield both


@pytest.fixture
def guest_veth() -> Iterator[tuple[Namespace, Namespace]]:
    """The same addresses, but the second namespace is a guest of the first."""
    require("ip")
    with host_and_guest(ADDRESSES) as both:
        yield both


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Certificates of an authority of our own, and of one that nobody knows."""
    return make_certificates(tmp_path_factory.mktemp("certificates"))

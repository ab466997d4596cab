"""The problems that `hogpipe check` finds in a `tcp` sink, without using the network."""

import re
from pathlib import Path

import pytest
from support.certificates import PASSWORD, Certificates
from support.configuration import load_text, problems_of

from hogpipe.sinks.tcp.tcp_sink import TcpSettings
from hogpipe.sinks.tls import TlsSettings

SINK = '[[sinks]]\ntype = "tcp"\n'


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "sinks[0].host: required, or endpoints"),
        ('host = "a"', "sinks[0].port: required"),
        ("port = 1", "sinks[0].host: required, or endpoints"),
        ('host = "a..b"\nport = 1', "sinks[0].host: a..b: no name or address"),
        ('host = "a:1"\nport = 1', "sinks[0].host: a:1: no name or address"),
        ('host = "http://a"\nport = 1', "sinks[0].host: http://a: no name or address"),
        ('host = "a"\nendpoints = ["b:1"]', "sinks[0].host: not beside endpoints"),
        ('port = 1\nendpoints = ["b:1"]', "sinks[0].port: not beside endpoints"),
        ("endpoints = []", "sinks[0].host: required, or endpoints"),
        ('endpoints = ["a:1", "b"]', "sinks[0].endpoints[1]: b: expected host:port"),
        (
            'endpoints = ["a:0"]',
            "sinks[0].endpoints[0]: a:0: its port is not a number from 1 to 65535",
        ),
        (
            'endpoints = ["::1:6514"]',
            "sinks[0].endpoints[0]: ::1:6514: an IPv6 address needs brackets: [::1]:6514",
        ),
        ("endpoints = [1]", "sinks[0].endpoints[0]: expected str, got int"),
    ],
)
def test_invalid_endpoints_are_reported(tmp_path: Path, text: str, problem: str) -> None:
    assert problems_of(tmp_path, SINK + text) == [problem]


@pytest.mark.parametrize(
    ("tls", "problem"),
    [
        ('ca = "none.pem"', "ca: {none}: No such file or directory"),
        ('ca = "."', "ca: {folder}: Is a directory"),
        ('ca = "{c}/client.key"', "ca: {c}/client.key holds no certificate (PEM)"),
        ('certificate = "none.pem"', "certificate: {none}: No such file or directory"),
        (
            'certificate = "{c}/client.key"',
            "certificate: {c}/client.key holds no certificate (PEM)",
        ),
        ('certificate = "{c}/client.pem"', "key: {c}/client.pem holds no private key (PEM)"),
        (
            'certificate = "{c}/client.pem"\nkey = "none.pem"',
            "key: {none}: No such file or directory",
        ),
        (
            'certificate = "{c}/client.pem"\nkey = "{c}/server.key"',
            "key: {c}/server.key is not the key of tls.certificate",
        ),
        (
            'certificate = "{c}/client.pem"\nkey = "{c}/locked.key"',
            "key_password: required: the key is encrypted",
        ),
        (
            'certificate = "{c}/client.pem"\nkey = "{c}/locked.key"\nkey_password = "wrong"',
            "key_password: does not decrypt the key",
        ),
        ('key = "{c}/client.key"', "key: only with tls.certificate"),
        ('certificat = "x"', 'certificat: unknown key; did you mean "certificate"?'),
        ("ca = 1", "ca: expected str, got int"),
        ('server_name = ".a"', "server_name: .a: no name or address"),
        ('server_name = "a\\u0000b"', "server_name: a\\x00b: no name or address"),
    ],
)
def test_unusable_tls_files_are_reported(
    tmp_path: Path, certificates: Certificates, tls: str, problem: str
) -> None:
    names = {"c": certificates.folder, "none": tmp_path / "none.pem", "folder": tmp_path}
    text = f'{SINK}endpoints = ["localhost:1"]\n[sinks.tls]\n{tls.format(**names)}'
    assert problems_of(tmp_path, text) == [f"sinks[0].tls.{problem.format(**names)}"]


def test_all_unusable_files_are_reported_at_once(tmp_path: Path) -> None:
    text = SINK + 'endpoints = ["a:1"]\ntls = {ca = "no-ca", certificate = "no-certificate"}'
    assert [line.partition(":")[0] for line in problems_of(tmp_path, text)] == [
        "sinks[0].tls.ca",
        "sinks[0].tls.certificate",
    ]


def test_a_path_from_a_reference_is_not_quoted(tmp_path: Path) -> None:
    (tmp_path / "where").write_text("/no/such/secret")
    text = SINK + 'endpoints = ["a:1"]\ntls = {ca = {file = "where"}}'
    assert problems_of(tmp_path, text) == ["sinks[0].tls.ca: No such file or directory"]


def test_the_representation_of_settings_contains_no_secret() -> None:
    tls = TlsSettings(key_password="sesame")
    settings = TcpSettings(type="tcp", name="lines", endpoints=("sesame:1",), tls=tls)
    assert repr(settings) == str(settings) == "<TcpSettings of the sink lines>"
    assert "sesame" not in f"{tls!r} {tls}"


def test_a_password_may_come_from_a_file(tmp_path: Path, certificates: Certificates) -> None:
    (tmp_path / "password").write_text(PASSWORD + "\n")
    text = f"""{SINK}
        endpoints = ["collector.test:6514", "[::1]:6514"]
        [sinks.tls]
        ca = "{certificates.path("ca.pem")}"
        certificate = "{certificates.path("client.pem")}"
        key = "{certificates.path("locked.key")}"
        key_password = {{file = "password"}}
        """
    (choice,) = load_text(tmp_path, text).sinks
    assert isinstance(choice.settings, TcpSettings)
    assert choice.settings.tls is not None
    assert choice.settings.tls.key_password == PASSWORD


def test_an_empty_table_means_tls_with_the_authorities_of_the_system(tmp_path: Path) -> None:
    (choice,) = load_text(tmp_path, SINK + 'host = "a"\nport = 1\ntls = {}').sinks
    assert isinstance(choice.settings, TcpSettings)
    assert choice.settings.tls == TlsSettings()


def test_the_reference_lists_every_key_of_tls() -> None:
    page = Path(__file__).parents[2] / "docs" / "configuration.md"
    table = page.read_text().partition("### TLS")[2].partition("\n###")[0]
    documented = re.findall(r"^\| `(\w+)` \| none \|", table, re.MULTILINE)
    assert documented == list(TlsSettings.__struct_fields__)

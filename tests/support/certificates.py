"""Certificates of a test authority, made by the openssl command."""

import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

NAME = "collector.test"
"""The name in the server's certificate, beside 127.0.0.1 and ::1."""
PASSWORD = "open sesame"
"""The password of the key `locked`."""

_NEW_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]


@dataclass(frozen=True)
class Certificates:
    """Files in `folder`: NAME.pem and NAME.key of `ca`, `server`, `client`, `untrusted`.

    `untrusted` is another authority, `locked.key` the encrypted key of the client, and
    `expired.pem` a certificate of the server that expired yesterday.
    """

    folder: Path

    def path(self, name: str) -> Path:
        return self.folder / name

    def server_context(
        self, *, certificate: str = "server.pem", ask_client: bool = False, tickets: int = 2
    ) -> ssl.SSLContext:
        """Return the context of a server, which may require a client's certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.path(certificate), self.path("server.key"))
        context.num_tickets = tickets
        if ask_client:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.path("ca.pem"))
        return context


def make_certificates(folder: Path) -> Certificates:
    """Make all files; a few milliseconds each."""
    made = Certificates(folder)
    for authority in ("ca", "untrusted"):
        _openssl(folder, "req", "-x509", *_NEW_KEY, "-days", "2", "-subj", f"/CN={authority}",
                 "-keyout", f"{authority}.key", "-out", f"{authority}.pem")  # fmt: skip
    made.path("names").write_text(f"subjectAltName=DNS:{NAME},IP:127.0.0.1,IP:::1\n")
    for name in ("server", "client"):
        _openssl(folder, "req", *_NEW_KEY, "-subj", f"/CN={name}",
                 "-keyout", f"{name}.key", "-out", f"{name}.csr")  # fmt: skip
    for name, request, days in (
        ("server", "server", "2"), ("client", "client", "2"), ("expired", "server", "-1"),
    ):  # fmt: skip
        _openssl(folder, "x509", "-req", "-in", f"{request}.csr", "-CA", "ca.pem",
                 "-CAkey", "ca.key", "-CAcreateserial", "-days", days, "-extfile", "names",
                 "-out", f"{name}.pem")  # fmt: skip
    _openssl(folder, "ec", "-in", "client.key", "-aes256", "-passout", f"pass:{PASSWORD}",
             "-out", "locked.key")  # fmt: skip
    return made


def _openssl(folder: Path, *words: str) -> None:
    subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

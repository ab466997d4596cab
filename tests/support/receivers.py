"""rsyslog and syslog-ng of Debian, as processes on loopback, configured as docs/collectors.md
shows.

The two packages conflict, and neither should become the log service of the machine that runs the
tests. So a package that is not installed is unpacked into a folder of the test run.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.certificates import Certificates
from support.running import Running, running, wait_until

_PACKAGES = {
    "rsyslogd": ["rsyslog", "rsyslog-openssl", "libestr0", "libfastjson4", "liblognorm5"],
    "syslog-ng": ["syslog-ng-core", "libivykis0", "libnet1", "libpcre3", "libwrap0", "libjson-c5"],
}

_PAGE = Path(__file__).parents[2] / "docs" / "collectors.md"
_SECURED = {
    "rsyslogd": r' *(defaultNetstreamDriver|streamDriver\.)\w+="[^"]*"',
    "syslog-ng": r' transport\("tls"\)\s+tls\((?:[^()]*\([^()]*\))*\s*\)',
}
"""What to remove from the configurations of the page, for connections without TLS."""


def shown(heading: str) -> str:
    """Return the code block under a heading of docs/collectors.md."""
    chapter = _PAGE.read_text().partition(f"## {heading}\n")[2]
    found = re.search(r"```\w+\n(.*?)```", chapter, re.DOTALL)
    assert found, f"{_PAGE} shows nothing for {heading}"
    return found[1]


@dataclass(frozen=True)
class Receiver:
    """A program that writes each line from `port` to `output`."""

    program: str
    folder: Path
    port: int
    certificates: Certificates | None
    """With these, it accepts only TLS, and only clients of the same authority."""

    @property
    def output(self) -> Path:
        return self.folder / "received"

    @contextmanager
    def run(self, root: Path) -> Iterator[Running]:
        """Run it until the context ends; `root` is the folder of the unpacked program, or `/`."""
        libraries = [str(path) for path in root.glob("**/*-linux-gnu")] if root.name else []
        environment = dict(os.environ)
        if libraries:
            environment["LD_LIBRARY_PATH"] = ":".join([*libraries, str(root / "usr/lib/syslog-ng")])
        configuration = self.folder / "receiver.conf"
        configuration.write_text(self._configure())
        name = root / "usr/sbin" / self.program
        words = self._rsyslog(root) if self.program == "rsyslogd" else self._syslog_ng(root)
        with running(None, name, *words, env=environment) as run:
            wait_until(lambda: run.process.poll() is not None or _listens(self.port))
            assert run.process.poll() is None, run.errors
            yield run

    def _configure(self) -> str:
        """Return the configuration of the page, for loopback and the files of the test."""
        text = shown("rsyslog" if self.program == "rsyslogd" else self.program)
        changes = {
            'port="6514"': f'address="127.0.0.1" port="{self.port}"',
            "port(6514)": f'ip("127.0.0.1") port({self.port})',
            "/var/log/hogpipe.jsonl": str(self.output),
        }
        if self.certificates is None:
            text = re.sub(_SECURED[self.program], "", text)
        else:
            changes["/etc/ssl/hogpipe"] = str(self.certificates.folder)
        for one, other in changes.items():
            text = text.replace(one, other)
        return text

    def _rsyslog(self, root: Path) -> list[str | Path]:
        modules = next((root / "usr/lib").glob("*-linux-gnu/rsyslog"))
        return ["-n", "-f", self.folder / "receiver.conf", "-i", self.folder / "pid", "-M", modules]

    def _syslog_ng(self, root: Path) -> list[str | Path]:
        modules = next((root / "usr/lib/syslog-ng").glob("[0-9]*"))
        return [
            "--foreground",
            "--no-caps",
            f"--cfgfile={self.folder / 'receiver.conf'}",
            f"--persist-file={self.folder / 'persist'}",
            f"--control={self.folder / 'control'}",
            f"--pidfile={self.folder / 'pid'}",
            f"--module-path={modules}",
        ]


def install(program: str, folder: Path) -> Path:
    """Return the root of `program`: `/`, or `folder` with its packages unpacked."""
    if shutil.which(program, path="/usr/sbin") and (program != "rsyslogd" or _has_tls()):
        return Path("/")
    packages = folder / "packages"
    packages.mkdir()
    command = ["apt-get", "download", "--quiet", *_PACKAGES[program]]
    fetched = subprocess.run(command, cwd=packages, capture_output=True, text=True, check=False)
    if fetched.returncode:
        reason = f"needs {program}, or a Debian that can download it: {fetched.stderr.strip()}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    for package in packages.glob("*.deb"):
        subprocess.run(["dpkg", "--extract", package, folder], check=True)
    return folder


def _has_tls() -> bool:
    return any(Path("/usr/lib").glob("*/rsyslog/lmnsd_ossl.so"))


def _listens(port: int) -> bool:
    """Return whether a socket of this host listens on `port`; without a connection to it."""
    wanted = f":{port:04X}"
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return any(line.split()[1].endswith(wanted) and line.split()[3] == "0A" for line in lines)

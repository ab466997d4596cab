"""The files of the page: those of `CONTENT_TYPES` in the folder `static`, read for each sink.

No path of a request reaches the file system.
"""

import hashlib
from dataclasses import dataclass
from importlib.resources import files

_SCRIPT = "text/javascript; charset=utf-8"
CONTENT_TYPES = {
    "index.html": "text/html; charset=utf-8",
    "style.css": "text/css; charset=utf-8",
    "theme.js": _SCRIPT,
    "app.js": _SCRIPT,
    "feed.js": _SCRIPT,
    "model.js": _SCRIPT,
    "chart.js": _SCRIPT,
    "table.js": _SCRIPT,
    "format.js": _SCRIPT,
    "icon.svg": "image/svg+xml",
    "uPlot.esm.js": _SCRIPT,
    "uPlot.min.css": "text/css; charset=utf-8",
    "uPlot.LICENSE.txt": "text/plain; charset=utf-8",
}


@dataclass(frozen=True, slots=True)
class Asset:
    """A file of the page."""

    content: bytes
    content_type: str
    tag: str
    """Its `ETag`."""


def read_assets() -> dict[str, Asset]:
    """Read all files, by name."""
    folder = files("hogpipe_web") / "static"
    assets = {}
    for name, content_type in CONTENT_TYPES.items():
        content = (folder / name).read_bytes()
        tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        assets[name] = Asset(content, content_type, tag)
    return assets

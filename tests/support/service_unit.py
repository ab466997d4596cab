"""The systemd unit: its keys, and a prefix that gives a program its user and its capabilities."""

import configparser
from pathlib import Path

UNIT = Path(__file__).parents[2] / "packaging/systemd/hogpipe.service"
NOBODY = 65534


def read_unit() -> dict[str, str]:
    """Return the keys of [Service]."""
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNIT)
    return dict(parser["Service"])


def as_service() -> list[str]:
    """Return a prefix that runs a command as the unit's user with the unit's capabilities."""
    unit = read_unit()
    assert unit["AmbientCapabilities"] == unit["CapabilityBoundingSet"]
    names = [name.removeprefix("CAP_").lower() for name in unit["AmbientCapabilities"].split()]
    kept = ",".join(["-all", *(f"+{name}" for name in names)])
    user = (f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
    words = (f"--inh-caps={kept}", f"--ambient-caps={kept}", f"--bounding-set={kept}")
    return ["setpriv", *user, *words, "--no-new-privs"]

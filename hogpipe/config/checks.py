"""Checks that no single type expresses: values that depend on one another or on the host.

Filters are compiled, and the files and folders that a configuration names are inspected. Nothing
is kept open, and no privilege is needed. Each check adds what it finds to one `Problems`.
"""

import itertools
import stat
from collections.abc import Sequence
from pathlib import Path

from hogpipe.aggregation.dimensions import list_row_fields
from hogpipe.aggregation.selectors import parse_selector, selects_domains
from hogpipe.attribution.procfs.table_reader import find_problem
from hogpipe.capture.dns.dns_capture import can_decode
from hogpipe.capture.live.link_selection import ANY
from hogpipe.capture.pcap import check_filter
from hogpipe.config.problems import KeyPath, Problems, format_key_path, quote
from hogpipe.config.settings import (
    AggregationSettings,
    AttributionSettings,
    CaptureSettings,
    EnrichmentSettings,
    NamedPrefixes,
    PluginSettings,
    SecuritySettings,
    Settings,
)
from hogpipe.files import describe_kind, find_folder_problem
from hogpipe.model import BUILT_IN_NETWORKS, Networks, make_networks
from hogpipe.model.networks import find_network_problems
from hogpipe.sinks.contract import SinkSettings

# Keys of [capture] that apply only to sources that capture packets.
_PACKET_KEYS = ("interfaces", "filter", "snaplen", "buffer_mib", "promiscuous")


def check_capture(capture: CaptureSettings, problems: Problems) -> None:
    """Check that the source has what it needs, and compile the filter."""
    source, path = ("capture", "source"), ("capture", "path")
    if capture.source != "savefile":
        if capture.path is not None and not problems.has_problem(source):
            problems.add(path, 'only for source "savefile"')
    elif capture.path is None:
        problems.add(path, 'required for source "savefile"')
    else:
        _check_savefile(capture.path, path, problems)
    if ANY in capture.interfaces and len(capture.interfaces) > 1:
        problems.add(("capture", "interfaces"), '"any" means all of them: leave the others out')
    if capture.source != "ebpf" and (error := check_filter(capture.filter, capture.snaplen)):
        text = f"libpcap refuses {quote(capture.filter)}: {error}"
        problems.add(("capture", "filter"), text, redacted="libpcap refuses it")


def find_ignored_keys(settings: Settings, *, changed: bool) -> list[str]:
    """Return the keys that the source ignores; if `changed`, only those not at their default."""
    keys = [("capture", "max_flows")]
    if settings.capture.source == "ebpf":
        keys = [*(("capture", name) for name in _PACKET_KEYS), ("attribution", "ledger")]
    default = Settings()
    return [
        format_key_path((table, key))
        for table, key in keys
        if not changed
        or getattr(getattr(settings, table), key) != getattr(getattr(default, table), key)
    ]


def check_attribution(attribution: AttributionSettings, problems: Problems) -> None:
    """Check that the procfs exists and that the socket table can be read from it."""
    at = ("attribution", "procfs")
    mode = _read_mode(attribution.procfs, at, problems)
    if mode is None:
        return
    if not stat.S_ISDIR(mode):
        _add_path_problem(attribution.procfs, at, "not a folder", problems)
    elif text := find_problem(attribution.procfs, attribution.socket_table):
        problems.add(("attribution", "socket_table"), text)


def check_ledger(
    capture: CaptureSettings, attribution: AttributionSettings, problems: Problems
) -> None:
    """Check that the ledger is not required for a savefile, whose sockets no longer exist."""
    if attribution.ledger == "on" and capture.source == "savefile":
        text = 'knows nothing of a savefile\'s packets; use "auto" or "off"'
        problems.add(("attribution", "ledger"), f"the ledger {text}")


def check_networks(configured: NamedPrefixes, problems: Problems) -> Networks | None:
    """Return the named networks; None, and a problem added for each, if something is wrong."""
    found = list(find_network_problems(configured))
    for key_path, text in found:
        problems.add(("networks", *key_path), text, redacted="not a network of its own")
    if found or problems.has_problem(("networks",)):
        return None
    return make_networks(configured)


def check_aggregation(
    capture: CaptureSettings,
    aggregation: AggregationSettings,
    networks: Networks | None,
    problems: Problems,
) -> None:
    """Check each dimension, alone and with the source, and that every selector can be parsed.

    Without `networks`, which have problems, no name of one is checked.
    """
    for index, dimension in enumerate(aggregation.group_by):
        at = ("aggregation", "group_by", index)
        if aggregation.group_by.index(dimension) < index:
            problems.add(at, f"{quote(dimension)} is given twice", redacted="given twice")
        elif capture.source == "ebpf":
            try:
                list_row_fields([dimension])
            except ValueError as error:
                redacted = 'cannot be grouped by with source "ebpf"'
                problems.add(at, str(error), redacted=redacted)
    for index, text in enumerate(aggregation.only):
        if networks is None and text.removeprefix("!").startswith("network:"):
            continue
        try:
            parse_selector(text, networks or BUILT_IN_NETWORKS)
        except ValueError as error:
            problems.add(("aggregation", "only", index), str(error), redacted="not a selector")


def check_peer_names(
    capture: CaptureSettings,
    aggregation: AggregationSettings,
    enrichment: EnrichmentSettings,
    problems: Problems,
) -> None:
    """Check that names of peers are known, and DNS answers can be decoded, if records need them."""
    if enrichment.peer_names == "off":
        text = '`domain` needs enrichment.peer_names, which is "off"'
    elif capture.source == "savefile":
        text = "`domain` needs a live source: DNS answers of a savefile are not read"
    elif not can_decode():
        text = '`domain` needs dnspython: pip install "hogpipe[names]"'
    else:
        return
    for key, values in (("group_by", aggregation.group_by), ("only", aggregation.only)):
        for index, value in enumerate(values):
            if value == "domain" or selects_domains(value):
                problems.add(("aggregation", key, index), text)


def check_security(security: SecuritySettings, problems: Problems) -> None:
    """Check that no user is named where the run does not become another one."""
    if security.user is not None and security.sandbox == "off":
        text = 'not with the sandbox "off", which keeps the user; leave one of the two keys out'
        problems.add(("security", "user"), text)


def check_plugin_paths(plugins: PluginSettings, problems: Problems) -> list[Path]:
    """Return the plugin paths that exist, and add a problem for each that does not."""
    return [
        path
        for index, path in enumerate(plugins.paths)
        if _read_mode(path, ("plugins", "paths", index), problems) is not None
    ]


def check_sinks(sinks: Sequence[SinkSettings | None], problems: Problems) -> None:
    """Check the names, retry delays and spools of all sinks.

    None stands for a sink whose common settings could not be converted.
    """
    first_of: dict[str, int] = {}
    _check_spools(sinks, problems)
    for index, sink in enumerate(sinks):
        if sink is None:
            continue
        at = ("sinks", index)
        if sink.retry_max < sink.retry_initial and not problems.has_problem((*at, "retry_initial")):
            problems.add((*at, "retry_max"), "must be at least retry_initial")
        if sink.name is None:
            continue
        if not sink.name or not sink.name.isprintable():
            problems.add((*at, "name"), "must be printable and not empty")
        elif sink.name in first_of:
            problems.add((*at, "name"), f"already the name of sinks[{first_of[sink.name]}]")
        else:
            first_of[sink.name] = index


def _check_spools(sinks: Sequence[SinkSettings | None], problems: Problems) -> None:
    first_of: dict[Path, int] = {}
    default = SinkSettings(type="").spool_mib
    for index, sink in enumerate(sinks):
        if sink is None:
            continue
        at = ("sinks", index, "spool")
        if sink.spool is None:
            if sink.spool_mib != default and not problems.has_problem(at):
                problems.add(("sinks", index, "spool_mib"), "only with spool")
            continue
        try:
            folder = sink.spool.resolve()
        except RuntimeError:
            _add_path_problem(sink.spool, at, "a symbolic link that leads to itself", problems)
            continue
        if folder in first_of:
            text = f"already the spool of sinks[{first_of[folder]}]; each needs its own folder"
            problems.add(at, text)
        elif reason := _find_spool_problem(folder):
            _add_path_problem(sink.spool, at, reason, problems)
        first_of.setdefault(folder, index)


def _find_spool_problem(folder: Path) -> str | None:
    """Return why `folder` can be neither used nor created, None if it can."""
    if folder.exists() and not folder.is_dir():
        return "not a folder"
    return find_folder_problem(folder)


def choose_sink_names(sinks: Sequence[SinkSettings]) -> list[str]:
    """Return a unique name for each sink: its own, or its type, numbered if that is taken."""
    taken = {sink.name for sink in sinks}
    names = []
    for sink in sinks:
        numbered = (f"{sink.type}-{number}" for number in itertools.count(2))
        free = (name for name in itertools.chain([sink.type], numbered) if name not in taken)
        names.append(sink.name or next(free))
        taken.add(names[-1])
    return names


def _check_savefile(path: Path, at: KeyPath, problems: Problems) -> None:
    mode = _read_mode(path, at, problems)
    if mode is None:
        return
    if kind := describe_kind(mode):
        _add_path_problem(path, at, kind, problems)
        return
    try:
        path.open("rb").close()
    except OSError as error:
        _add_path_problem(path, at, f"cannot be read: {error.strerror}", problems)


def _read_mode(path: Path, at: KeyPath, problems: Problems) -> int | None:
    """Return the mode of the file at `path`; None, and a problem added, if there is none."""
    try:
        return path.stat().st_mode
    except OSError as error:
        _add_path_problem(path, at, f"{error.strerror}", problems)
        return None


def _add_path_problem(path: Path, at: KeyPath, text: str, problems: Problems) -> None:
    problems.add(at, f"{quote(path)}: {text}", redacted=text)

"""What no single type can say: values that need one another, and things that must be there.

The files and folders that a configuration names are looked at here, and filters are compiled;
nothing is kept open, and no privilege is needed.
"""

import itertools
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from hogpipe.aggregation.selectors import parse_selector
from hogpipe.attribution.procfs.table_reader import find_problem
from hogpipe.capture.live.link_selection import ANY
from hogpipe.capture.pcap import check_filter
from hogpipe.config.problems import Place, Report, quote, write_place
from hogpipe.config.settings import (
    AggregationSettings,
    AttributionSettings,
    CaptureSettings,
    PluginSettings,
    Settings,
)
from hogpipe.sinks.contract import SinkSettings

# What says how packets are captured, where none are.
_OF_PACKETS = ("interfaces", "filter", "snaplen", "buffer_mib", "promiscuous")


def check_capture(capture: CaptureSettings, report: Report) -> None:
    """Check the source with what it needs, and the filter."""
    source, path = ("capture", "source"), ("capture", "path")
    if capture.source != "savefile":
        if capture.path is not None and not report.is_wrong(source):
            report.add(path, 'only for source "savefile"')
    elif capture.path is None:
        report.add(path, 'required for source "savefile"')
    else:
        _check_savefile(capture.path, path, report)
    if ANY in capture.interfaces and len(capture.interfaces) > 1:
        report.add(("capture", "interfaces"), '"any" means all of them: leave the others out')
    if capture.source != "ebpf" and (problem := check_filter(capture.filter, capture.snaplen)):
        text = f"libpcap refuses {quote(capture.filter)}: {problem}"
        report.add(("capture", "filter"), text, discreet="libpcap refuses it")


def find_without_effect(settings: Settings, *, changed: bool) -> list[str]:
    """Return the keys that have no effect with this source; or those only that were `changed`."""
    keys = [("capture", "max_flows")]
    if settings.capture.source == "ebpf":
        keys = [*(("capture", name) for name in _OF_PACKETS), ("attribution", "ledger")]
    default = Settings()
    return [
        write_place((table, key))
        for table, key in keys
        if not changed
        or getattr(getattr(settings, table), key) != getattr(getattr(default, table), key)
    ]


def check_attribution(attribution: AttributionSettings, report: Report) -> None:
    """Check that what is asked for exists."""
    place = ("attribution", "procfs")
    mode = _read_mode(attribution.procfs, place, report)
    if mode is None:
        return
    if not stat.S_ISDIR(mode):
        _report_path(attribution.procfs, place, "not a folder", report)
    elif problem := find_problem(attribution.procfs, attribution.socket_table):
        report.add(("attribution", "socket_table"), problem)


def check_ledger(
    capture: CaptureSettings, attribution: AttributionSettings, report: Report
) -> None:
    """Check that a ledger is not demanded for packets of the past."""
    if attribution.ledger == "on" and capture.source == "savefile":
        text = 'knows nothing of a savefile\'s packets; use "auto" or "off"'
        report.add(("attribution", "ledger"), f"the ledger {text}")


def check_aggregation(aggregation: AggregationSettings, report: Report) -> None:
    """Check that no dimension is given twice, and what `only` selects by."""
    for index, dimension in enumerate(aggregation.group_by):
        if aggregation.group_by.index(dimension) < index:
            place = ("aggregation", "group_by", index)
            report.add(place, f"{quote(dimension)} is given twice", discreet="given twice")
    for index, text in enumerate(aggregation.only):
        try:
            parse_selector(text)
        except ValueError as error:
            report.add(("aggregation", "only", index), str(error), discreet="not a selector")


def check_plugin_paths(plugins: PluginSettings, report: Report) -> list[Path]:
    """Return the paths of plugins that exist."""
    places = [("plugins", "paths", index) for index in range(len(plugins.paths))]
    return [
        path
        for path, place in zip(plugins.paths, places, strict=True)
        if _read_mode(path, place, report) is not None
    ]


def check_sinks(sinks: Sequence[SinkSettings | None], report: Report) -> None:
    """Check names, waits and spools of all sinks; None stands for one that says too little."""
    first_of: dict[str, int] = {}
    _check_spools(sinks, report)
    for index, sink in enumerate(sinks):
        if sink is None:
            continue
        at = ("sinks", index)
        if sink.retry_max < sink.retry_initial and not report.is_wrong((*at, "retry_initial")):
            report.add((*at, "retry_max"), "must be at least retry_initial")
        if sink.name is None:
            continue
        if not sink.name or not sink.name.isprintable():
            report.add((*at, "name"), "must be printable and not empty")
        elif sink.name in first_of:
            report.add((*at, "name"), f"already the name of sinks[{first_of[sink.name]}]")
        else:
            first_of[sink.name] = index


def _check_spools(sinks: Sequence[SinkSettings | None], report: Report) -> None:
    first_of: dict[Path, int] = {}
    default = SinkSettings(type="").spool_mib
    for index, sink in enumerate(sinks):
        if sink is None:
            continue
        at = ("sinks", index, "spool")
        if sink.spool is None:
            if sink.spool_mib != default and not report.is_wrong(at):
                report.add(("sinks", index, "spool_mib"), "only with spool")
            continue
        folder = sink.spool.resolve()
        if folder in first_of:
            text = f"already the spool of sinks[{first_of[folder]}]; each needs its own folder"
            report.add(at, text)
        elif problem := _find_folder_problem(folder):
            _report_path(sink.spool, at, problem, report)
        first_of.setdefault(folder, index)


def _find_folder_problem(folder: Path) -> str | None:
    """Return why `folder` cannot be used or made, if so."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir():
        return "not a folder" if there == folder else f"{there} is not a folder"
    return None if os.access(there, os.W_OK | os.X_OK) else f"{there} may not be written to"


def choose_names(sinks: Sequence[SinkSettings]) -> list[str]:
    """Return a name for each sink: its own, or its type, with a number where that is taken."""
    taken = {sink.name for sink in sinks}
    names = []
    for sink in sinks:
        numbered = (f"{sink.type}-{number}" for number in itertools.count(2))
        free = (name for name in itertools.chain([sink.type], numbered) if name not in taken)
        names.append(sink.name or next(free))
        taken.add(names[-1])
    return names


def _check_savefile(path: Path, place: Place, report: Report) -> None:
    mode = _read_mode(path, place, report)
    if mode is None:
        return
    if not stat.S_ISREG(mode):
        _report_path(path, place, "not a regular file", report)
        return
    try:
        path.open("rb").close()
    except OSError as error:
        _report_path(path, place, f"cannot be read: {error.strerror}", report)


def _read_mode(path: Path, place: Place, report: Report) -> int | None:
    try:
        return path.stat().st_mode
    except OSError as error:
        _report_path(path, place, f"{error.strerror}", report)
        return None


def _report_path(path: Path, place: Place, text: str, report: Report) -> None:
    report.add(place, f"{quote(path)}: {text}", discreet=text)

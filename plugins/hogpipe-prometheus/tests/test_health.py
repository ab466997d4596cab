"""The health of TCP connections on the page: sums of the records, absent where unknown."""

import asyncio
import shutil
import subprocess
from collections.abc import Awaitable, Callable
from typing import Any

from prometheus_client.openmetrics import parser as openmetrics_parser
from prometheus_client.parser import text_string_to_metric_families

from hogpipe import Sink
from hogpipe.testing import RecordMaker

TCP = {
    "retransmits": 3,
    "rtt": {"samples": 4, "sum_us": 2_000_000, "min_us": 7},
    "connections": {"opened": 2, "refused": 1, "opening_us": 500_000},
}


def window_with(*tcp: dict[str, Any] | None) -> list[Any]:
    """Return a window in which program N has the health `tcp[N]`."""
    window = RecordMaker().window(len(tcp) + 1)
    for n, (record, health) in enumerate(zip(window, tcp, strict=False)):
        record["process"] = {"pid": n + 1, "name": f"p{n}"}
        if health is not None:
            record["network"]["tcp"] = health
            record["network"]["io"]["transmit"]["payload_bytes"] = 100
            record["network"]["io"]["receive"]["payload_bytes"] = 200
    return window


def found(text: str) -> dict[tuple[str, ...], float]:
    """Return the samples of health by name and the values of their labels."""
    return {
        (
            one.name.removeprefix("hogpipe_network_"),
            *(one.labels[key] for key in ("program", "direction", "cause") if key in one.labels),
        ): one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
        if "_tcp_" in one.name or "payload" in one.name
    }


async def test_health_is_summed_by_labels_and_absent_where_unknown(
    opened: Callable[..., Awaitable[Sink]], scrape: Callable[..., Awaitable[str]]
) -> None:
    sink = await opened(labels=["program"])
    await sink.write(window_with(TCP, None, {"retransmits": 0}))
    await sink.write(window_with(TCP, None, None))
    samples = found(await scrape())
    assert {key: value for key, value in samples.items() if "p0" in key} == EXPECTED
    assert not any("p1" in key for key in samples)
    assert samples["tcp_retransmits_total", "p2"] == 0
    assert not any("p2" in key and "connections" in key[0] for key in samples)
    assert not any("other" in key for key in samples)


EXPECTED = {
    ("io_payload_bytes_total", "p0", "transmit"): 200,
    ("io_payload_bytes_total", "p0", "receive"): 400,
    ("tcp_retransmits_total", "p0"): 6,
    ("tcp_rtt_seconds_count", "p0"): 8,
    ("tcp_rtt_seconds_sum", "p0"): 4.0,
    ("tcp_connections_opened_total", "p0"): 4,
    ("tcp_connections_accepted_total", "p0"): 0,
    ("tcp_connections_closed_total", "p0"): 0,
    ("tcp_connections_failed_total", "p0", "refused"): 2,
    ("tcp_connections_failed_total", "p0", "timed_out"): 0,
    ("tcp_connections_failed_total", "p0", "unreachable"): 0,
    ("tcp_connections_failed_total", "p0", "abandoned"): 0,
    ("tcp_connections_failed_total", "p0", "reset"): 0,
    ("tcp_opening_seconds_total", "p0"): 1.0,
    ("tcp_lifetime_seconds_total", "p0"): 0,
}


async def test_both_formats_and_promtool_accept_the_families(
    opened: Callable[..., Awaitable[Sink]], scrape: Callable[..., Awaitable[str]]
) -> None:
    sink = await opened(labels=["program"])
    await sink.write(window_with(TCP))
    text = await scrape()
    openmetrics = await scrape(Accept="application/openmetrics-text;version=1.0.0")
    families = openmetrics_parser.text_string_to_metric_families(openmetrics)
    samples = {(one.name, *one.labels.items()) for family in families for one in family.samples}
    assert {name for name, *_ in samples} >= {f"hogpipe_network_{key[0]}" for key in EXPECTED}
    assert "# UNIT hogpipe_network_tcp_rtt_seconds seconds" in openmetrics
    program = shutil.which("promtool")
    assert program, "promtool is not there: apt-get install --no-install-recommends prometheus"
    check = await asyncio.to_thread(
        subprocess.run, [program, "check", "metrics"], input=text, capture_output=True, text=True
    )
    assert (check.returncode, check.stdout + check.stderr) == (0, "")


async def test_without_health_the_page_has_no_family_of_it(
    opened: Callable[..., Awaitable[Sink]], scrape: Callable[..., Awaitable[str]]
) -> None:
    sink = await opened()
    await sink.write(window_with(None, None))
    text = await scrape()
    assert "_tcp_" not in text
    assert "payload" not in text


async def test_label_sets_without_room_have_their_health_in_other(
    opened: Callable[..., Awaitable[Sink]], scrape: Callable[..., Awaitable[str]]
) -> None:
    sink = await opened(labels=["program"], max_series=1)
    await sink.write(window_with(TCP, TCP, TCP))
    retransmits = {
        key[1]: value
        for key, value in found(await scrape()).items()
        if key[0] == "tcp_retransmits_total"
    }
    assert sum(retransmits.values()) == 9
    assert retransmits["other"] >= 6

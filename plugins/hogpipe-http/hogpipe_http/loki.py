"""PURE: the push API of Grafana Loki, as JSON.

    POST /loki/api/v1/push    {"streams":[{"stream":LABELS,"values":[[NANOSECONDS, LINE], ...]}]}

A stream has the labels `host`, `source` and those of the setting `labels`. At most `max_streams`
streams are made in a run: a record of a further one goes to the stream without the additional
labels. Nothing is lost by that, as the line is the whole record.

The time of a line is the end of its window plus `sequence` nanoseconds (modulo a millisecond). So
the lines of a window stay in order, and a record that is sent again has the same time and text,
which Loki takes for the same line.

Loki stores the valid lines of a request that it answers with 400 (too old, too far behind, too
long), without a list of the others. Such a batch is halved until the refused lines are found.
"""

from collections.abc import Callable, Mapping

import orjson

from hogpipe import HttpAnswer, Record, TrafficRecord, extend_url
from hogpipe_http.exchange import DELIVERED, Batch, Request, Verdict
from hogpipe_http.settings import HttpSettings, LabelName, LokiSettings
from hogpipe_http.statuses import LONGEST_ANSWER, judge_status, misunderstand

_HEADERS = {"Content-Type": "application/json"}
_PATH = "/loki/api/v1/push"
_MILLISECOND = 1_000_000  # nanoseconds

Labels = tuple[str, ...]
"""The values of host and of the additional labels; an empty one is not there."""


def _read(*path: str) -> Callable[[TrafficRecord], str]:
    def read(record: TrafficRecord) -> str:
        value: object = record
        for key in path:
            if not isinstance(value, Mapping) or key not in value:
                return ""
            value = value[key]
        return str(value)

    return read


_LABELS: dict[LabelName, Callable[[TrafficRecord], str]] = {
    "program": _read("process", "name"),
    "unit": _read("systemd", "unit"),
    "user": _read("process", "owner"),
    "container": _read("container", "name"),
    "pod": _read("k8s", "pod", "name"),
    "namespace": _read("k8s", "namespace", "name"),
    "kernel": _read("kernel", "name"),
    "interface": _read("network", "interface", "name"),
    "transport": _read("network", "transport"),
    "network": _read("network", "peer", "network"),
}


class LokiPreset:
    """Streams of lines; the streams that a run has made are kept, up to `max_streams`."""

    longest_answer = LONGEST_ANSWER

    def __init__(self, settings: HttpSettings) -> None:
        self._url = extend_url(settings.url, _PATH)
        self._place = settings.place
        options = settings.loki or LokiSettings()
        self._names, self._max_streams = options.labels, options.max_streams
        self._streams: set[Labels] = set()

    def encode(self, batch: Batch) -> Request:
        """Return the lines by stream, in order."""
        streams: dict[Labels, list[tuple[str, str]]] = {}
        for record, document in zip(batch.records, batch.documents, strict=True):
            line = (_find_time(record), document.decode())
            streams.setdefault(self._find_stream(record), []).append(line)
        body = [
            {"stream": self._name_labels(labels), "values": lines}
            for labels, lines in streams.items()
        ]
        return Request(self._url, orjson.dumps({"streams": body}), _HEADERS)

    def classify(self, batch: Batch, answer: HttpAnswer) -> Verdict:  # noqa: ARG002 - the protocol
        """Return what the status means; Loki's success has no body."""
        if (verdict := judge_status(answer, self._place)) is not None:
            return verdict
        if answer.body.strip():
            return misunderstand(answer, self._place, "nothing, as Loki does")
        return DELIVERED

    def _find_stream(self, record: Record) -> Labels:
        labels = (record["host"]["name"], *(_read_label(record, name) for name in self._names))
        if labels in self._streams:
            return labels
        if len(self._streams) >= self._max_streams:
            return (labels[0],)
        self._streams.add(labels)
        return labels

    def _name_labels(self, labels: Labels) -> dict[str, str]:
        named = zip(("host", *self._names), labels, strict=False)
        return {"source": "hogpipe", **{name: value for name, value in named if value}}


def _read_label(record: Record, name: LabelName) -> str:
    if name == "type":
        return record["type"]
    return "" if record["type"] == "stats" else _LABELS[name](record)


def _find_time(record: Record) -> str:
    end = round(record["window"]["end_unix"] * 1000) * _MILLISECOND
    return str(end + record["sequence"] % _MILLISECOND)

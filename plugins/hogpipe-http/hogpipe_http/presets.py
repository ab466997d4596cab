"""PURE: the preset that the settings name."""

from hogpipe_http.clickhouse import ClickHousePreset
from hogpipe_http.elasticsearch import ElasticsearchPreset
from hogpipe_http.exchange import Preset
from hogpipe_http.loki import LokiPreset
from hogpipe_http.ndjson import NdjsonPreset
from hogpipe_http.settings import HttpSettings
from hogpipe_http.splunk import SplunkPreset


def make_preset(settings: HttpSettings, channel: str) -> Preset:
    """Return the preset; `channel` identifies this sink to a receiver that acknowledges."""
    match settings.preset:
        case "ndjson":
            return NdjsonPreset(settings)
        case "elasticsearch":
            return ElasticsearchPreset(settings)
        case "loki":
            return LokiPreset(settings)
        case "splunk":
            return SplunkPreset(settings, channel)
        case "clickhouse":
            return ClickHousePreset(settings)

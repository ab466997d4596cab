"""The `kafka` sink: each record is a message in a Kafka topic, keyed by its host.

    settings.py  PURE: the `[[sinks]]` table
    producer.py  one producer of aiokafka: connection test, start, release
    sink.py      windows -> messages, and their acknowledgements

A window counts as delivered when the brokers have acknowledged each of its messages. A message
whose acknowledgement is outstanding when a write is cancelled stays with the producer, which
continues with it: the retry does not produce it a second time.
"""

from collections.abc import Iterable

from hogpipe import SettingProblem, SinkSettings, SinkType, find_tls_problems, hookimpl
from hogpipe_kafka.settings import KafkaSettings, find_problems
from hogpipe_kafka.sink import KafkaSink

__all__ = ["HOGPIPE_API", "KafkaSettings", "KafkaSink", "hogpipe_sinks"]

HOGPIPE_API = 1
"""The version of hogpipe's interface for plugins."""


@hookimpl
def hogpipe_sinks() -> Iterable[SinkType[SinkSettings]]:
    """Offer the sink type `kafka`."""
    return [SinkType("kafka", KafkaSettings, KafkaSink, _check)]


def _check(settings: KafkaSettings) -> Iterable[SettingProblem]:
    yield from find_problems(settings)
    yield from find_tls_problems(settings.tls)

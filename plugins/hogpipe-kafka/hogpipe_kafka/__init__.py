"""The `kafka` sink: each record is a message in a Kafka topic, keyed by its host.

    settings.py  what a `[[sinks]]` table may hold
    producer.py  one producer of aiokafka: how it is reached, started and let go of
    sink.py      windows -> messages, and which of them the brokers have taken

A window counts as delivered when the brokers have acknowledged each of its messages. One that waits
for that when a write is given up stays with the producer, which goes on with it: when the record
comes again, it is not sent a second time.
"""

from collections.abc import Iterable

from hogpipe import SettingProblem, SinkSettings, SinkType, find_tls_problems, hookimpl
from hogpipe_kafka.settings import KafkaSettings, find_problems
from hogpipe_kafka.sink import KafkaSink

__all__ = ["HOGPIPE_API", "KafkaSettings", "KafkaSink", "hogpipe_sinks"]

HOGPIPE_API = 1
"""The plugin interface of hogpipe that this was made for."""


@hookimpl
def hogpipe_sinks() -> Iterable[SinkType[SinkSettings]]:
    """Offer the sink type `kafka`."""
    return [SinkType("kafka", KafkaSettings, KafkaSink, _check)]


def _check(settings: KafkaSettings) -> Iterable[SettingProblem]:
    yield from find_problems(settings)
    yield from find_tls_problems(settings.tls)

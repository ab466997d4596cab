"""The parts that a pipeline is put together from, as the settings ask for them."""

import hashlib
import os
import time

import msgspec

from hogpipe.attribution.contract import Resolver
from hogpipe.attribution.ledger_resolver import LedgerResolver
from hogpipe.attribution.resolver import ProcfsResolver
from hogpipe.capture.live import LiveOptions, LiveSource
from hogpipe.capture.recorded import read_local_addresses
from hogpipe.capture.savefile import SavefileSource
from hogpipe.capture.source import PacketSource
from hogpipe.config.settings import Settings, SinkChoice
from hogpipe.errors import ConfigurationError, HogpipeError
from hogpipe.record import make_run_id
from hogpipe.sinks.protocol import Sink, SinkSettings
from hogpipe.text import describe_error

_HASHED_BYTES = 1 << 20


def make_source(settings: Settings, interval_ns: int) -> PacketSource:
    """Return the source that `[capture]` describes, not yet opened."""
    capture = settings.capture
    if capture.source == "savefile":
        assert capture.path is not None  # load_config sees to it
        return SavefileSource(
            capture.path,
            expression=capture.filter,
            local=read_local_addresses(settings.attribution.procfs),
            interval_ns=interval_ns,
        )
    return LiveSource(
        LiveOptions(
            interfaces=capture.interfaces,
            filter=capture.filter,
            snaplen=capture.snaplen,
            buffer_mib=capture.buffer_mib,
            promiscuous=capture.promiscuous,
            procfs=settings.attribution.procfs,
        )
    )


def make_resolver(settings: Settings) -> Resolver:
    """Return what finds owners as `[attribution]` says; `prepare` opens the ledger.

    Raises ConfigurationError where that makes no sense on this host.
    """
    choice = settings.attribution
    resolver = ProcfsResolver(
        choice.procfs,
        command_line=settings.enrichment.command_line,
        socket_table=choice.socket_table,
    )
    if choice.ledger == "off" or settings.capture.source == "savefile":
        return resolver
    return LedgerResolver(resolver, choice.procfs, required=choice.ledger == "on")


def make_sink(choice: SinkChoice, *, live: bool) -> tuple[Sink, SinkSettings]:
    """Return a sink, not yet opened, with the settings to dispatch to it by.

    Raises ConfigurationError where the sink cannot be made.
    """
    settings = choice.settings
    if not live:  # a replay can wait, and its records must not depend on how fast sinks are
        settings = msgspec.structs.replace(settings, when_full="block")
    try:
        return choice.type.create(settings), settings
    except HogpipeError:
        raise
    except Exception as error:  # whatever a plugin's factory may raise
        name = settings.name or settings.type
        raise ConfigurationError(f"sink {name}: cannot be made: {describe_error(error)}") from error


def make_run_id_for(settings: Settings) -> str:
    """Return a new run's id.

    A replay with a recorded /proc depends on nothing but what it is given. Its id follows from
    that, so that a receiver can tell a repeated replay from another one.
    """
    path = settings.capture.path
    live_processes = (settings.attribution.procfs / "self").exists()
    if settings.capture.source != "savefile" or path is None or live_processes:
        return make_run_id(time.time_ns())
    digest = hashlib.sha256(msgspec.json.encode((settings.capture.filter, settings.aggregation)))
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            digest.update(size.to_bytes(8, "big"))
            for start in (0, max(0, size - _HASHED_BYTES)):
                file.seek(start)
                digest.update(file.read(_HASHED_BYTES))
    except OSError as error:
        raise ConfigurationError(f"capture.path: {path}: {error.strerror}") from error
    return make_run_id(0, digest.digest()[:10])

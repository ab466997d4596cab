"""The promise that settings which make no sense are refused before they do harm."""

from collections.abc import Mapping

from msgspec.structs import fields

from hogpipe.delivery.isolation import OPEN_SECONDS
from hogpipe.errors import ConfigurationError
from hogpipe.sinks.contract import SinkSettings
from hogpipe.testing.case import BrokenPromiseError, SinkCase
from hogpipe.testing.configuring import read_settings
from hogpipe.testing.harness import Driver
from hogpipe.testing.leaks import Traces
from hogpipe.text import describe_error

_ANYTHING = ({"no": "such"}, [["no", "such"]], True, "no such", 0.5)


async def refuse_nonsense(case: SinkCase, traces: Traces) -> None:
    """Check that settings that make no sense are refused by a ConfigurationError.

    Unknown and missing keys are not for a sink to refuse: hogpipe does, whatever its settings are.
    """
    common = {field.name for field in fields(SinkSettings)}
    for field in fields(case.sink_type.settings):
        key = field.encode_name
        if field.name in common:
            continue
        if all(_is_read(case, {**case.keys, key: wrong}) for wrong in _ANYTHING):
            raise BrokenPromiseError(f"{key} takes anything, whatever its type")
    for change in case.wrong_keys:
        keys = {key: value for key, value in {**case.keys, **change}.items() if value is not None}
        await _refuse(case, keys, traces, f"{dict(change)}")


def _is_read(case: SinkCase, keys: Mapping[str, object]) -> bool:
    try:
        read_settings(case.sink_type, keys)
    except ConfigurationError:
        return False
    except Exception as error:  # a settings class may do what it likes
        raise BrokenPromiseError(
            f"its settings raise {describe_error(error)} for {dict(keys)}; what is wrong with a "
            "value is a ValueError"
        ) from error
    return True


async def _refuse(case: SinkCase, keys: Mapping[str, object], traces: Traces, what: str) -> None:
    """Expect `keys` to be refused when they are read, or when the sink is made or opened."""
    if not _is_read(case, keys):
        return
    try:
        driver = await Driver.make(case, traces, keys)
    except ConfigurationError:
        return
    error = await driver.call_open(OPEN_SECONDS)
    await driver.close()
    if not isinstance(error, ConfigurationError):
        told = f"open raised {describe_error(error)}" if error else "the sink was opened"
        raise BrokenPromiseError(f"{what} was not refused by a ConfigurationError: {told}")

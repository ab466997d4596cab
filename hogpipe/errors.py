"""The kinds of error that a user of hogpipe can meet.

Each message is one line that names the thing, the place and the remedy. `exit_code` is what the
command line ends with when the error reaches it (docs/cli.md).
"""

from collections.abc import Sequence

from hogpipe.records.schema import Record


class HogpipeError(Exception):
    """Whatever hogpipe raises on purpose; its text is meant for the user."""

    exit_code = 1


class CaptureError(HogpipeError):
    """The capture failed or ended before its time."""


class NotPermittedError(HogpipeError):
    """The kernel refused; the message names the missing capability and how to grant it."""

    exit_code = 77


class ConfigurationError(HogpipeError):
    """The configuration asks for something that is not there or makes no sense.

    `problems` holds one line for each thing that is wrong, each beginning with its place.
    """

    exit_code = 78

    def __init__(self, problems: Sequence[str] | str) -> None:
        self.problems = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))


class DeliveryError(HogpipeError):
    """A sink could not deliver for now.

    `undelivered` are the records of the window that are worth another try, all of them where it is
    None. `refused` are those of the others that the receiver will never take. What is in neither
    was delivered.
    """

    def __init__(
        self,
        text: str = "",
        *,
        undelivered: Sequence[Record] | None = None,
        refused: Sequence[Record] = (),
    ) -> None:
        super().__init__(text)
        self.undelivered = undelivered
        self.refused = refused


class RefusedError(HogpipeError):
    """The receiver will never take these records: trying again is useless.

    `refused` are those records of the window; the others were delivered. None: it took nothing,
    and did not say which record is to blame.
    """

    def __init__(self, text: str = "", *, refused: Sequence[Record] | None = None) -> None:
        super().__init__(text)
        self.refused = refused


class OutputClosedError(HogpipeError):
    """Whoever read our output has left; the run ends quietly."""

    exit_code = 0

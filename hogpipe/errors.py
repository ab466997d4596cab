"""The errors that a user of hogpipe can see.

Each message is one line that names the problem, its location and the remedy. `exit_code` is the
exit code of the command line if the error ends it (docs/cli.md).
"""

from collections.abc import Sequence

from hogpipe.records.schema import Record


class HogpipeError(Exception):
    """The base class of expected errors; the text is for the user."""

    exit_code = 1


class CaptureError(HogpipeError):
    """The capture failed or ended early."""


class ScreenError(HogpipeError):
    """There is no terminal for a screen, or what draws it is not installed."""


class NotPermittedError(HogpipeError):
    """The kernel refused; the message names the missing capability and how to grant it."""

    exit_code = 77


class ConfigurationError(HogpipeError):
    """The configuration is invalid, or names something that does not exist.

    `problems` has one line for each problem, beginning with the location.
    """

    exit_code = 78

    def __init__(self, problems: Sequence[str] | str) -> None:
        self.problems = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))


class InUseError(ConfigurationError):
    """What a sink needs for itself, such as a file or a port, is used by another sink or program.

    A sink that replaces another one is opened again once that one is closed.
    """


class DeliveryError(HogpipeError):
    """A delivery failed temporarily.

    `undelivered` has the records of the window to retry; None stands for all of them. `refused` has
    the records that the receiver rejects for good. All other records were delivered.
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
    """The receiver rejects these records for good; a retry is useless.

    `refused` has these records; the other records of the window were delivered. None: nothing was
    delivered, and the receiver did not say which record it rejects.
    """

    def __init__(self, text: str = "", *, refused: Sequence[Record] | None = None) -> None:
        super().__init__(text)
        self.refused = refused


class OutputClosedError(HogpipeError):
    """The reader of stdout closed the pipe; the run ends quietly."""

    exit_code = 0

"""The event loop of a run outlasts what tasks and callbacks of plugins raise."""

import asyncio
import sys

import pytest

from hogpipe.run_command import run_in_event_loop


async def leave() -> None:
    await asyncio.sleep(0)
    sys.exit(3)


async def interrupt() -> None:
    raise KeyboardInterrupt


def test_tasks_and_callbacks_that_exit_do_not_end_the_loop(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ended = []

    async def main() -> None:
        tasks = [asyncio.create_task(leave()), asyncio.create_task(interrupt())]
        asyncio.get_running_loop().call_soon(sys.exit, 3)
        await asyncio.sleep(0.01)
        assert [type(task.exception()) for task in tasks] == [SystemExit, KeyboardInterrupt]
        ended.append("in order")

    run_in_event_loop(main())
    assert ended == ["in order"]
    raised = [line.rpartition("raised ")[2].partition(" ")[0] for line in caplog.messages]
    assert sorted(raised) == ["KeyboardInterrupt", "SystemExit:", "SystemExit:"]


@pytest.mark.parametrize("error", [OSError, SystemExit, KeyboardInterrupt])
def test_what_the_run_itself_raises_ends_the_loop(error: type[BaseException]) -> None:
    async def main() -> None:
        await asyncio.sleep(0)
        raise error

    with pytest.raises(error):
        run_in_event_loop(main())

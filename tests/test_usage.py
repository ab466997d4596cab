import asyncio
import time

from hogpipe.usage import UsageMeter


async def test_a_loop_that_was_blocked_is_seen_to_be_late_once() -> None:
    meter = UsageMeter()
    watch = asyncio.create_task(meter.watch_loop())
    await asyncio.sleep(0.001)
    time.sleep(0.2)  # noqa: ASYNC251 - it is to block
    await asyncio.sleep(0.001)
    assert meter.read()["loop_delay_seconds"] > 0.1
    assert meter.read()["loop_delay_seconds"] == 0.0
    watch.cancel()


def test_cpu_time_is_that_since_the_reading_before() -> None:
    meter = UsageMeter()
    until = time.process_time() + 0.05
    while time.process_time() < until:
        pass
    first, second = meter.read(), meter.read()
    assert first["cpu_seconds"] >= 0.05 > second["cpu_seconds"]
    assert first["memory_bytes"] > 1 << 20

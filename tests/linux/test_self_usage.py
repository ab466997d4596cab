import time

from hogpipe.linux.self_usage import UsageMeter


def test_cpu_time_is_that_since_the_previous_reading() -> None:
    meter = UsageMeter()
    until = time.process_time() + 0.05
    while time.process_time() < until:
        pass
    first, second = meter.read(), meter.read()
    assert first["cpu_seconds"] >= 0.05 > second["cpu_seconds"]
    assert first["memory_bytes"] > 1 << 20

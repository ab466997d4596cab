"""The entry point of the command line, also of `python -m hogpipe`."""

from hogpipe.signals import StopSignals


def main() -> None:
    """Handle signals, then import and run the command line."""
    signals = StopSignals()
    signals.install()

    from hogpipe import cli  # noqa: PLC0415 - it takes half a second, during which a signal may come

    cli.main(signals)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Print the man page hogpipe(1), made from the help of the command line (man-pages(7)).

    python packaging/make_man.py > hogpipe.1

Needs hogpipe in the environment that runs it.
"""

import re
from collections.abc import Iterator

import click

from hogpipe.cli import commands
from hogpipe.version import __version__

_FILES = {
    "/etc/hogpipe/config.toml": "the configuration of the service",
    "/var/lib/hogpipe": "what the service writes",
}
_EXIT_CODES = {
    0: "The command succeeded; a run was stopped and everything was delivered.",
    1: "A failure.",
    2: "A wrong command line.",
    77: "Not permitted; the text names the missing capability and how to grant it.",
    78: "A wrong configuration, or a host that lacks what it requires.",
    126: "The command of exec cannot be executed.",
    127: "The command of exec is not found; else exec ends with the exit code of its command.",
}


def make_page() -> str:
    """Return the page in the man macros of roff."""
    lines = [
        f'.TH HOGPIPE 1 "" "hogpipe {__version__}" "User Commands"',
        ".SH NAME",
        "hogpipe \\- which process sends and receives which bytes",
        ".SH SYNOPSIS",
        ".B hogpipe",
        "[\\fIOPTION\\fR]... \\fICOMMAND\\fR [\\fIARGUMENT\\fR]...",
        ".SH DESCRIPTION",
        escape(commands.help or ""),
        ".SH OPTIONS",
        *describe_options(commands),
        ".SH COMMANDS",
    ]
    for name, command in sorted(commands.commands.items()):
        lines += describe_command(name, command)
    lines.append(".SH EXIT STATUS")
    for code, text in _EXIT_CODES.items():
        lines += [".TP", f".B {code}", escape(text)]
    lines.append(".SH FILES")
    for path, text in _FILES.items():
        lines += [".TP", f".I {escape(path)}", escape(text)]
    return "\n".join(lines) + "\n"


def describe_command(name: str, command: click.Command) -> Iterator[str]:
    """Yield the lines of a command: its use, its help, its options."""
    context = click.Context(command, info_name=name)
    use = " ".join(command.collect_usage_pieces(context))
    yield f'.SS "hogpipe {name} {escape(use)}"'
    for paragraph in re.split(r"\n\s*\n", (command.help or "").strip()):
        yield from (escape(" ".join(paragraph.split())), ".PP")
    yield from describe_options(command)


def describe_options(command: click.Command) -> Iterator[str]:
    """Yield the lines of the options that a command has, --help included."""
    context = click.Context(command, help_option_names=["-h", "--help"])
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None and parameter.param_type_name == "option":
            yield from (".TP", f".B {escape(record[0])}", escape(record[1]))


def escape(text: str) -> str:
    """Return text in which roff sees no request and no escape."""
    text = text.strip().replace("\\", "\\e").replace("-", "\\-").replace("\n", " ")
    return f"\\&{text}" if text.startswith((".", "'")) else text


if __name__ == "__main__":
    print(make_page(), end="")  # noqa: T201

import os
import re
import shutil
import subprocess

import make_man
import pytest

from hogpipe.cli import commands


def test_the_page_has_each_command_with_each_of_its_options() -> None:
    page = make_man.make_page().replace("\\-", "-")
    sections = dict(
        re.findall(r'^\.SS "hogpipe (\w+)(.*?)(?=^\.S[SH])', page, re.MULTILINE | re.DOTALL)
    )
    assert set(sections) == set(commands.commands)
    for name, command in commands.commands.items():
        for parameter in command.params:
            for option in parameter.opts if parameter.param_type_name == "option" else ():
                assert option in sections[name], (name, option)


def test_roff_sees_no_request_in_text() -> None:
    assert make_man.escape(".B x\\fR -v\n'a") == "\\&.B x\\efR \\-v 'a"


def test_man_formats_the_page_without_a_warning() -> None:
    if shutil.which("groff") is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("needs groff")
    done = subprocess.run(
        ["groff", "-man", "-ww", "-Tutf8"],
        input=make_man.make_page(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    assert "hogpipe run" in re.sub(r".\x08", "", done.stdout)  # bold is overstruck

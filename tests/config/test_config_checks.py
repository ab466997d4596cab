import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.configuration import load_text, problems_of
from support.namespaces import require

from hogpipe.config.checks import check_filter, find_ignored_keys
from hogpipe.model.networks import BUILT_IN_NAMES


def test_the_source_savefile_needs_a_path(tmp_path: Path) -> None:
    assert problems_of(tmp_path, '[capture]\nsource = "savefile"') == [
        'capture.path: required for source "savefile"'
    ]


def test_a_path_is_refused_with_a_source_that_does_not_read_it(tmp_path: Path) -> None:
    assert problems_of(tmp_path, '[capture]\npath = "x.pcap"') == [
        'capture.path: only for source "savefile"'
    ]


def test_a_path_is_no_problem_beside_a_misspelt_source(tmp_path: Path) -> None:
    assert problems_of(tmp_path, '[capture]\nsource = "savefiel"\npath = "x.pcap"') == [
        'capture.source: must be "pcap", "savefile" or "ebpf", not "savefiel"'
    ]


def test_a_savefile_must_be_an_existing_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    text = '[capture]\nsource = "savefile"\npath = '
    assert problems_of(tmp_path, text + '"absent"') == [
        f'capture.path: "{tmp_path}/absent": No such file or directory'
    ]
    assert problems_of(tmp_path, text + '"."') == [
        f'capture.path: "{tmp_path}": not a regular file but a folder'
    ]
    assert problems_of(tmp_path, text + '"pipe"') == [
        f'capture.path: "{tmp_path}/pipe": not a regular file but a FIFO'
    ]


def test_a_user_is_refused_without_the_sandbox_that_becomes_it(tmp_path: Path) -> None:
    text = '[security]\nuser = "nobody"\nsandbox = '
    (problem,) = problems_of(tmp_path, text + '"off"')
    assert problem == (
        'security.user: not with the sandbox "off", which keeps the user; '
        "leave one of the two keys out"
    )
    assert load_text(tmp_path, text + '"auto"').security.user == "nobody"


def test_the_interface_any_excludes_others(tmp_path: Path) -> None:
    assert problems_of(tmp_path, '[capture]\ninterfaces = ["any", "lo"]') == [
        'capture.interfaces: "any" means all of them: leave the others out'
    ]


def test_a_savefile_must_be_readable(tmp_path: Path) -> None:
    (tmp_path / "sealed").touch(mode=0)
    path = tmp_path / "config.toml"
    path.write_text('[capture]\nsource = "savefile"\npath = "sealed"')
    command = [sys.executable, "-m", "hogpipe", "check", path]
    if os.geteuid() == 0:  # root reads every file, unless it drops these capabilities
        require("setpriv")
        command[:0] = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    line = f'{path}: capture.path: "{tmp_path}/sealed": cannot be read: Permission denied'
    assert done.stderr == f"hogpipe: {line}\n"


def test_keys_that_the_source_ignores_are_found(tmp_path: Path) -> None:
    ebpf = load_text(tmp_path, '[capture]\nsource = "ebpf"\nfilter = "tcp"')
    assert find_ignored_keys(ebpf, changed=True) == ["capture.filter"]
    assert find_ignored_keys(ebpf, changed=False) == [
        "capture.interfaces",
        "capture.filter",
        "capture.snaplen",
        "capture.buffer_mib",
        "capture.promiscuous",
        "attribution.ledger",
    ]
    pcap = load_text(tmp_path, "[capture]\nmax_flows = 100")
    assert find_ignored_keys(pcap, changed=True) == ["capture.max_flows"]


def test_check_lists_keys_that_the_source_ignores(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    for text, notes in (('[capture]\nsource = "ebpf"', 1), ("", 0)):
        path.write_text(text)
        command = [sys.executable, "-m", "hogpipe", "check", path]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout.count('note: source "ebpf" ignores capture.inter') == notes


def test_the_ledger_cannot_be_required_for_a_savefile(tmp_path: Path) -> None:
    (tmp_path / "trace.pcap").touch()
    text = '[capture]\nsource = "savefile"\npath = "trace.pcap"\n[attribution]\nledger = "on"'
    assert problems_of(tmp_path, text) == [
        'attribution.ledger: the ledger knows nothing of a savefile\'s packets; use "auto" or "off"'
    ]


def test_sock_diag_needs_the_procfs_of_its_own_network_namespace(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    settings = '[attribution]\nsocket_table = "sock_diag"'
    assert load_text(tmp_path, settings).attribution.socket_table == "sock_diag"
    (problem,) = problems_of(tmp_path, f'{settings}\nprocfs = "proc"')
    assert problem == (
        'attribution.socket_table: "sock_diag" reads the sockets of the network namespace that '
        'hogpipe runs in, but procfs shows another namespace or is recorded; use "procfs" or "auto"'
    )


def test_procfs_must_be_a_folder(tmp_path: Path) -> None:
    assert problems_of(tmp_path, '[attribution]\nprocfs = "config.toml"') == [
        f'attribution.procfs: "{tmp_path}/config.toml": not a folder'
    ]
    assert problems_of(tmp_path, '[attribution]\nprocfs = "host/proc"') == [
        f'attribution.procfs: "{tmp_path}/host/proc": No such file or directory'
    ]


def test_at_least_one_interface_is_required(tmp_path: Path) -> None:
    assert problems_of(tmp_path, "[capture]\ninterfaces = []") == [
        "capture.interfaces: must not be empty"
    ]
    assert problems_of(tmp_path, '[capture]\ninterfaces = ["lo", ""]') == [
        "capture.interfaces[1]: must not be empty"
    ]


def test_a_dimension_may_not_be_given_twice(tmp_path: Path) -> None:
    text = '[aggregation]\ngroup_by = ["user", "remote", "user"]'
    assert problems_of(tmp_path, text) == ['aggregation.group_by[2]: "user" is given twice']


def test_a_dimension_must_exist_and_be_known_to_the_source(tmp_path: Path) -> None:
    text = '[capture]\nsource = "{}"\n[aggregation]\ngroup_by = ["process", "{}"]'
    (problem,) = problems_of(tmp_path, text.format("ebpf", "interface"))
    assert problem == (
        'aggregation.group_by[1]: "interface" cannot be grouped by with source "ebpf": '
        "the kernel counts at sockets, which have no interface"
    )
    load_text(tmp_path, text.format("pcap", "interface"))
    load_text(tmp_path, text.format("ebpf", "flow"))
    (problem,) = problems_of(tmp_path, text.format("pcap", "colour"))
    assert problem.startswith('aggregation.group_by[1]: must be "process", "program", "parent", ')
    assert problem.endswith('not "colour"')


def test_a_selector_that_cannot_be_parsed_is_reported_with_the_reason(tmp_path: Path) -> None:
    only = '["pid:1", "pid:x", "!port:https", "remote:10.0.0.1/8"]'
    assert problems_of(tmp_path, f"[aggregation]\nonly = {only}") == [
        "aggregation.only[1]: 'pid:x' is not a selector: a pid is a number, as in pid:4242",
        (
            "aggregation.only[2]: '!port:https' is not a selector: "
            "a port is a number from 1 to 65535, as in port:443"
        ),
        (
            "aggregation.only[3]: 'remote:10.0.0.1/8' is not a selector: 10.0.0.1/8 is an address "
            "within 10.0.0.0/8: write 10.0.0.0/8, or 10.0.0.1 alone"
        ),
    ]


def test_retry_max_may_not_be_below_retry_initial(tmp_path: Path) -> None:
    text = '[[sinks]]\ntype = "stdout"\nretry_initial = 0\n[[sinks]]\ntype = "stdout"\n'
    assert problems_of(tmp_path, text + "retry_initial = 5\nretry_max = 4") == [
        "sinks[0].retry_initial: must be more than 0",
        "sinks[1].retry_max: must be at least retry_initial",
    ]


def test_sinks_without_a_name_get_their_type_and_a_free_number(tmp_path: Path) -> None:
    sinks = ["stdout-2", None, None, "stdout", None]
    text = "".join(
        '[[sinks]]\ntype = "stdout"\n' + (f'name = "{name}"\n' if name else "") for name in sinks
    )
    names = [choice.settings.name for choice in load_text(tmp_path, text).sinks]
    assert names == ["stdout-2", "stdout-3", "stdout-4", "stdout", "stdout-5"]


def test_two_unnamed_sinks_of_one_type_get_different_names(tmp_path: Path) -> None:
    settings = load_text(tmp_path, '[[sinks]]\ntype = "stdout"\n' * 2)
    assert [choice.settings.name for choice in settings.sinks] == ["stdout", "stdout-2"]


def test_two_sinks_may_not_have_one_name(tmp_path: Path) -> None:
    text = '[[sinks]]\ntype = "stdout"\nname = "x"\n' * 2
    assert problems_of(tmp_path, text) == ["sinks[1].name: already the name of sinks[0]"]


@pytest.mark.parametrize("name", ["", "a\\u001b[2J"])
def test_a_name_must_be_printable(tmp_path: Path, name: str) -> None:
    assert problems_of(tmp_path, f'[[sinks]]\ntype = "stdout"\nname = "{name}"') == [
        "sinks[0].name: must be printable and not empty"
    ]


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ("", None),
        ("tcp port 80 and not net 10.0.0.0/8", None),
        ("vlan", None),
        ("inbound", None),
        ("ether host 1:2:3:4:5:6", None),
        ("tcp port", "can't parse filter expression: syntax error"),
        ("ip and ip6", "expression rejects all packets"),
        ("port 65536", "illegal port number 65536 > 65535"),
        ("wlan type mgt", "802.11 link-layer types supported only on 802.11"),
        ("tcp\0", "embedded null character"),
    ],
)
def test_a_filter_is_refused_only_if_no_link_type_accepts_it(
    expression: str, problem: str | None
) -> None:
    assert check_filter(expression, 128) == problem


def test_two_sinks_may_not_share_a_spool(tmp_path: Path) -> None:
    text = '[[sinks]]\ntype = "stdout"\nspool = "a"\n[[sinks]]\ntype = "stdout"\nspool = "./x/../a"'
    assert problems_of(tmp_path, text) == [
        "sinks[1].spool: already the spool of sinks[0]; each needs its own folder"
    ]


def test_a_spool_must_be_a_folder_or_a_path_where_one_can_be_created(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    sink = '[[sinks]]\ntype = "stdout"\nspool = "{}"\n'
    text = sink.format("file") + sink.format("file/deeper") + sink.format("new/deeper")
    assert problems_of(tmp_path, text) == [
        f'sinks[0].spool: "{tmp_path}/file": not a folder',
        f'sinks[1].spool: "{tmp_path}/file/deeper": {tmp_path}/file is not a folder',
    ]
    assert not (tmp_path / "new").exists()


def test_spool_mib_needs_a_spool(tmp_path: Path) -> None:
    text = '[[sinks]]\ntype = "stdout"\nspool_mib = 5'
    assert problems_of(tmp_path, text) == ["sinks[0].spool_mib: only with spool"]


def test_networks_are_named_and_selectors_may_use_their_names(tmp_path: Path) -> None:
    text = '[networks]\nzone-b = ["10.9.0.0/16"]\n[aggregation]\nonly = ["network:zone-{}"]'
    assert load_text(tmp_path, text.format("b")).networks == {"zone-b": ("10.9.0.0/16",)}
    (problem,) = problems_of(tmp_path, text.format("c"))
    names = ", ".join([*BUILT_IN_NAMES, "zone-b"])
    assert problem.endswith(f"is not a selector: no network has this name; there are {names}")


def test_each_problem_of_networks_is_named_with_its_key_path(tmp_path: Path) -> None:
    text = """
        networks = {a = ["10.0.0.0/8", "x"], b = ["10.0.0.0/8"], "c d" = []}
        aggregation.only = ["network:e"]  # no name is known
    """
    assert problems_of(tmp_path, text) == [
        "networks.a[1]: not an address or a prefix, as 10.0.0.0/8 or 2001:db8::/32",
        "networks.b[0]: the prefix is already that of a[0]",
        "networks.\"c d\": a name is a letter or digit, then up to 62 of these, '.', '_' and '-'",
    ]
    assert problems_of(tmp_path, 'networks = {a = "10.0.0.0/8", b = [1, ""]}') == [
        "networks.a: expected array, got str",
        "networks.b[0]: expected str, got int",
        "networks.b[1]: must not be empty",
    ]
    assert problems_of(tmp_path, "networks = 1") == ["networks: expected table, got int"]


def test_names_of_peers_need_a_live_source_that_reads_dns_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = '[aggregation]\ngroup_by = ["process", "domain"]\nonly = ["!domain:*.test"]\n'
    where = ("aggregation.group_by[1]: ", "aggregation.only[0]: ")
    assert load_text(tmp_path, rules).needs_peer_names
    reverse = load_text(tmp_path, f'{rules}[enrichment]\npeer_names = "reverse"')
    assert reverse.enrichment.peer_names == "reverse"
    off = '`domain` needs enrichment.peer_names, which is "off"'
    text = f'{rules}[enrichment]\npeer_names = "off"'
    assert problems_of(tmp_path, text) == [place + off for place in where]
    monkeypatch.setattr("hogpipe.config.checks.can_decode", lambda: False)
    missing = '`domain` needs dnspython: pip install "hogpipe[names]"'
    assert problems_of(tmp_path, rules) == [place + missing for place in where]
    (tmp_path / "a.pcap").write_bytes(b"")
    text = f'{rules}[capture]\nsource = "savefile"\npath = "a.pcap"'
    live = "`domain` needs a live source: DNS answers of a savefile are not read"
    assert problems_of(tmp_path, text) == [place + live for place in where]

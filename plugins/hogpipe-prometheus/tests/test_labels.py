from hogpipe_prometheus.labels import LONGEST, Labelling

from hogpipe import TrafficRecord
from hogpipe.testing import RecordMaker


def traffic(records: int = 7) -> list[TrafficRecord]:
    window = RecordMaker().window(records)
    return [record for record in window if record["type"] == "traffic"]


SERVICE, CONTAINER, ONLY_USER, NO_PROCESS, HOSTILE, FLOW = traffic()


def test_labels_have_the_configured_order() -> None:
    assert Labelling(["program", "unit"]).of(SERVICE) == ("nginx", "worker-0.service")
    assert Labelling(["unit", "program"]).of(SERVICE) == ("worker-0.service", "nginx")


def test_container_and_pod_can_be_labels() -> None:
    container, pod, unit = Labelling(["container", "pod", "unit"]).of(CONTAINER)
    assert container == f"{1:064x}"
    assert pod.startswith("7a1b90f2-")
    assert unit == ""


def test_names_of_containers_and_pods_are_labels_and_their_ids_where_they_are_unknown() -> None:
    labelling = Labelling(["container_name", "pod_name", "namespace", "parent"])
    container, pod, *rest = labelling.of(CONTAINER)
    assert (container, pod[:9], *rest) == (f"{1:064x}", "7a1b90f2-", "", "")
    named = dict(
        CONTAINER,
        container={"id": "1f", "name": "web"},
        k8s={"pod": {"uid": "7a", "name": "web-0"}, "namespace": {"name": "shop"}},
        process={"name": "curl", "parent": {"pid": 1, "name": "bash", "command": "backup.sh"}},
    )
    assert labelling.of(named) == ("web", "web-0", "shop", "backup.sh")
    assert labelling.of(NO_PROCESS) == ("", "", "", "")


def test_a_user_is_a_name_or_a_number() -> None:
    labelling = Labelling(["program", "user"])
    assert labelling.of(ONLY_USER) == ("", "user2")
    nameless = dict(ONLY_USER, process={"user": {"id": 4711}})
    assert labelling.of(nameless) == ("", "4711")


def test_interface_transport_port_and_network_can_be_labels() -> None:
    assert Labelling(["interface", "transport", "port"]).of(FLOW) == ("eth0", "tcp", "443")
    assert Labelling(["network"]).of(FLOW) == ("internet",)
    assert Labelling(["port", "network"]).of(SERVICE) == ("", "")


def test_a_program_has_one_label_whether_or_not_the_executable_is_known() -> None:
    known = {"name": "nginx", "path": "/usr/sbin/nginx"}
    for process in (
        {"pid": 1, "name": "nginx", "command": "worker"},
        {"pid": 2, "name": "nginx", "command": "nginx", "executable": known},
    ):
        assert Labelling(["program"]).of(dict(SERVICE, process=process)) == ("nginx",)


def test_traffic_without_a_process_has_empty_labels() -> None:
    assert Labelling(["program", "unit", "container"]).of(NO_PROCESS) == ("", "", "")


def test_the_kernels_own_traffic_has_its_name_as_the_program() -> None:
    record = dict(NO_PROCESS, kernel={"name": "vxlan"})
    assert Labelling(["program", "unit"]).of(record) == ("kernel:vxlan", "")


def test_the_remainder_is_other() -> None:
    record = dict(NO_PROCESS, remainder=True)
    assert Labelling(["program", "unit"]).of(record) == ("other", "other")


def test_values_are_printable_and_bounded() -> None:
    (value,) = Labelling(["program"]).of(HOSTILE)
    assert value.startswith('a"b\\c\N{REPLACEMENT CHARACTER}')
    assert value.isprintable()
    record = dict(SERVICE, process={"pid": 1, "name": "x" * 300})
    assert Labelling(["program"]).of(record) == ("x" * LONGEST,)

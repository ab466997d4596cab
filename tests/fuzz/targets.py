"""All targets by name. A parser of bytes that others choose has one."""

from fuzz.dns_targets import DNS_TARGETS
from fuzz.frame_targets import FRAME_TARGETS
from fuzz.message_targets import MESSAGE_TARGETS
from fuzz.target import Target
from fuzz.text_targets import TEXT_TARGETS

TARGETS: dict[str, Target] = {
    **DNS_TARGETS,
    **FRAME_TARGETS,
    **MESSAGE_TARGETS,
    **TEXT_TARGETS,
}

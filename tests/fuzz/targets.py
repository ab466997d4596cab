"""All targets by name. A parser of bytes that others choose has one; decoding of DNS joins here."""

from fuzz.frame_targets import FRAME_TARGETS
from fuzz.message_targets import MESSAGE_TARGETS
from fuzz.target import Target
from fuzz.text_targets import TEXT_TARGETS

TARGETS: dict[str, Target] = {**FRAME_TARGETS, **MESSAGE_TARGETS, **TEXT_TARGETS}

"""Gives up what a run does not need, in the order that the package describes.

In: settings, the files that the sinks name, the environment. Out: the threads of the run, lines for
the log, and a calling thread without capabilities.

Which user
    `security.user`; or who called sudo, if that user can use all files that the run needs; or the
    present one. Without capabilities, root may use what root owns, like any user. Only if the run
    needs files of others, the calling thread keeps what they take (`_FOR_FILES`).

What may fail
    With the sandbox "auto", each step that is not possible is logged, and the run goes on. With
    "strict" it ends with NotPermittedError, or ConfigurationError if a setting is the reason. No
    other user replaces a `security.user` that is not possible.
"""

import errno
import logging
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec

from hogpipe.config.settings import ConfiguredSink, PluginSettings, Settings
from hogpipe.errors import ConfigurationError, NotPermittedError
from hogpipe.linux import credentials, host_features
from hogpipe.linux.capabilities import Capability, list_known, read_permitted
from hogpipe.linux.credentials import User, limit_capabilities
from hogpipe.linux.seccomp import deny_calls
from hogpipe.security.denied_calls import DENIED_TO_SINKS
from hogpipe.security.named_files import NamedFiles
from hogpipe.security.rights import HostFacts, Need, list_needs
from hogpipe.security.run_threads import RunThreads, start_threads
from hogpipe.security.user_choice import (
    describe_current,
    find_obstacles,
    find_obstacles_of,
    find_sudo_caller,
    find_user,
)
from hogpipe.security.write_bounds import WriteBounds, find_bounds
from hogpipe.text import NOTICE

_FOR_FILES = (
    (Capability.CAP_DAC_READ_SEARCH,),  # a key that only its owner may read
    (Capability.CAP_SYS_PTRACE,),  # a procfs below /proc/PID/root
    (Capability.CAP_DAC_READ_SEARCH, Capability.CAP_SYS_PTRACE),
    (Capability.CAP_DAC_OVERRIDE,),  # an output in a folder of another user
    (Capability.CAP_DAC_OVERRIDE, Capability.CAP_SYS_PTRACE),
)


class Report(NamedTuple):
    """A line for the log, with its level."""

    level: int
    text: str


@dataclass(frozen=True, slots=True)
class Confined:
    """What a run begins with."""

    threads: RunThreads
    reports: Sequence[Report] = ()
    """Lines for the log, those of `restrict_outputs` included once that was called."""
    restrict_outputs: Callable[[Sequence[ConfiguredSink], Sequence[Path]], WriteBounds | None] = (
        lambda _sinks, _outputs: None
    )
    """Restrict the calling thread to what the sinks and other outputs of the run need; returns
    that, or None."""


def confine_run(settings: Settings, files: NamedFiles, environ: Mapping[str, str]) -> Confined:
    """Drop what `settings` do not need. The process may have no other threads.

    A process that may do nothing special, and a sandbox that is off, are left as they are.
    """
    security, permitted = settings.security, read_permitted()
    if security.sandbox == "off" or not (permitted or security.user):
        return Confined(RunThreads.plain())
    confinement = _Confinement(settings, files)
    needs = list_needs(settings, read_host_facts(settings.attribution.procfs))
    confinement.change_user(environ)
    threads = confinement.drop(needs, permitted)
    return Confined(threads, confinement.reports, confinement.restrict_outputs)


def confine_loading(plugins: Sequence[Path], environ: Mapping[str, str]) -> Sequence[Report]:
    """Drop what loading these plugins does not need; the lines for the log are those of a run.

    The process may have no other threads.
    """
    permitted = read_permitted()
    if not permitted:
        return ()
    settings = Settings(plugins=PluginSettings(paths=tuple(plugins)))
    confinement = _Confinement(settings, NamedFiles())
    confinement.change_user(environ)
    confinement.drop([], permitted).shut_down()
    return confinement.reports


def read_host_facts(procfs: Path) -> HostFacts:
    """Return what this host has that takes rights."""
    return HostFacts(
        host_features.has_containers(procfs),
        host_features.may_translate(),
        host_features.read_kernel_version(),
    )


def describe_rights(needs: Sequence[Need], permitted: Collection[int]) -> str:
    """Return which of the permitted capabilities a run keeps, and what for."""
    kept: dict[str, list[str]] = {}
    for need in needs:
        if need.lasts and need.capability in permitted:
            kept.setdefault(need.reason, []).append(need.capability.name)
    return "; ".join(f"{', '.join(names)} {reason}" for reason, names in kept.items())


class _Confinement(msgspec.Struct):
    """The steps for a run; its `files`, and its plugins, must be usable after them."""

    settings: Settings
    files: NamedFiles
    unusable: Mapping[Path, str] = {}
    """What cannot be used with all rights either."""
    reports: list[Report] = []
    _filters: bool | None = None

    def __post_init__(self) -> None:
        self.unusable = find_obstacles(self.files, self._plugins)

    def change_user(self, environ: Mapping[str, str]) -> None:
        """Become the user of the configuration, or the one who called sudo if that is possible."""
        name = self.settings.security.user
        if name is not None:
            self._become(find_user(name))
            return
        caller = find_sudo_caller(environ)
        if caller is not None:
            if obstacle := self._find_new(find_obstacles_of(caller, self.files, self._plugins)):
                text = f"runs as root, as {caller.name} cannot use {obstacle}"
                self.reports.append(Report(NOTICE, text))
            else:
                self._take(f"become {caller.name}", lambda: credentials.switch_user(caller))
        if os.geteuid() == 0 and self._is_strict:
            raise ConfigurationError(
                'security.user: required, as the sandbox is "strict" and the user is root'
            )

    def drop(self, needs: list[Need], permitted: Collection[int]) -> RunThreads:
        """Drop capabilities, and what would bring them back; return the threads that keep some."""
        self._take("forbid new privileges", credentials.forbid_new_privileges)
        if Capability.CAP_SETPCAP in permitted:
            kept, known = {need.capability for need in needs}, list_known()
            step = lambda: credentials.limit_bounding_set(kept, known)  # noqa: E731
            self._take("limit the capabilities of programs", step)
        try:
            threads = start_threads(needs, has_filters=self._can_filter())
            limit_capabilities(self._choose_own())
        except OSError as error:
            self._report(f"cannot drop capabilities ({error.strerror})")
            return RunThreads.plain()
        self._take("forbid core dumps", credentials.forbid_dumps)
        if self._can_filter():
            self._take("filter system calls", lambda: deny_calls(DENIED_TO_SINKS))
        rights = describe_rights(needs, permitted) or "no capability"
        self.reports.append(Report(logging.INFO, f"runs as {describe_current()}, with {rights}"))
        return threads

    def restrict_outputs(
        self, sinks: Sequence[ConfiguredSink], outputs: Sequence[Path]
    ) -> WriteBounds | None:
        """Restrict the calling thread to what these need, by Landlock; return that."""
        bounds = find_bounds(sinks, outputs, bounds_ports=self._is_strict)

        def restrict() -> None:
            # Landlock also hides what a procfs below /proc/PID/root leads to.
            if obstacle := self._find_new(self._try(bounds.enforce)):
                raise OSError(errno.EACCES, f"the run could not use {obstacle}")
            bounds.enforce()

        is_done = self._take("restrict where sinks write to", restrict, level=logging.INFO)
        return bounds if is_done else None

    def _can_filter(self) -> bool:
        """Return whether system calls can be filtered, which is tried in a thread."""
        if self._filters is None:
            with ThreadPoolExecutor(1, "filter") as thread:
                step = thread.submit(deny_calls, DENIED_TO_SINKS).result
                self._filters = self._take("filter system calls", step, level=logging.INFO)
        return self._filters

    def _become(self, user: User) -> None:
        if user.uid == os.geteuid():
            return
        try:
            obstacle = self._find_new(find_obstacles_of(user, self.files, self._plugins))
            if obstacle is None:
                credentials.switch_user(user)
        except PermissionError as error:
            raise NotPermittedError(
                f"security.user: only root can become {user.name}; remove the key, or run as root"
            ) from error
        if obstacle is not None:
            raise ConfigurationError(f"security.user: {user.name} cannot use {obstacle}")

    def _choose_own(self) -> Collection[Capability]:
        """Return what the calling thread keeps, which uses the files: the least that they take."""
        first = self._find_new(self._try(partial(limit_capabilities, ())))
        if first is None:
            return ()
        for kept in _FOR_FILES:
            if self._find_new(self._try(partial(limit_capabilities, kept))) is None:
                break
        names = ", ".join(capability.name for capability in kept)
        self._report(f"sinks keep {names}, as without it the run cannot use {first}")
        return kept

    def _try(self, step: Callable[[], None]) -> Mapping[Path, str]:
        """Return what cannot be used after a step, which is taken in a thread. Raises OSError."""

        def check() -> Mapping[Path, str]:
            step()
            return find_obstacles(self.files, self._plugins)

        with ThreadPoolExecutor(1, "rights") as thread:
            return thread.submit(check).result()

    def _find_new(self, obstacles: Mapping[Path, str]) -> str | None:
        """Return the first obstacle that fewer rights cause, None if there is none."""
        for path, problem in obstacles.items():
            if path not in self.unusable:
                return f"{path}: {problem}"
        return None

    @property
    def _plugins(self) -> Sequence[Path]:
        return self.settings.plugins.paths

    @property
    def _is_strict(self) -> bool:
        return self.settings.security.sandbox == "strict"

    def _take(self, name: str, step: Callable[[], None], level: int = logging.WARNING) -> bool:
        """Take a step, and return whether that was possible."""
        try:
            step()
        except OSError as error:
            self._report(f"cannot {name} ({error.strerror})", level)
            return False
        return True

    def _report(self, text: str, level: int = logging.WARNING) -> None:
        """Report what is not possible. Raises NotPermittedError if the sandbox is strict."""
        if self._is_strict:
            raise NotPermittedError(f'{text}, which security.sandbox = "strict" demands')
        self.reports.append(Report(level, text))

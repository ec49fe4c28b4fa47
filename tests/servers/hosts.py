"""Where a server runs: as a process of this machine, or in a container that shares this machine's network and folders.

Both take the same command line, so that a cluster or a server with TLS is described once.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from signal import SIGTERM, Signals
from typing import Any, Protocol

from .process import PATIENCE, Process, ServerDidNotStart, wait_for_answer


class Part(Protocol):
    """One running piece of a server."""

    def start(self) -> None:
        """Start it, or start it again, on the same port and data; return when it answers."""

    def stop(self) -> None:
        """End it in order."""

    def kill(self) -> None:
        """End it with SIGKILL."""


class Host(Protocol):
    """What servers are started on."""

    def path(self, program: str) -> str:
        """Return what to call `program` by."""

    def user(self, name: str) -> str | None:
        """Return who a server runs as that must not be root and is usually `name`; None: who we are."""

    def run(
        self,
        command: Sequence[str],
        folder: Path,
        answers: Callable[[], bool],
        *,
        environment: Mapping[str, str] | None = None,
        user: str | None = None,
        stop_signal: Signals = SIGTERM,
    ) -> Part:
        """Return a part that is not started. `answers` may raise OSError for "not yet"."""


class ThisMachine:
    """Runs programs that are installed here."""

    def __init__(self, programs: Mapping[str, str]) -> None:
        #: Name of each program, and its path.
        self.programs = programs

    def path(self, program: str) -> str:
        return self.programs[program]

    def user(self, name: str) -> str | None:
        if os.geteuid() != 0:
            return None
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            return "nobody"

    def run(self, command: Sequence[str], folder: Path, answers: Callable[[], bool], **options: Any) -> Part:
        return Process(command, folder, answers, **options)


class Docker:
    """Runs programs in containers of one image, on this machine's network: ports are the same inside and outside."""

    def __init__(self, image: str) -> None:
        self.image = image

    def path(self, program: str) -> str:
        return program

    def user(self, name: str) -> str | None:
        return name

    def run(self, command: Sequence[str], folder: Path, answers: Callable[[], bool], **options: Any) -> Part:
        return Container(self.image, command, folder, answers, **options)


class Container:
    """A part in a container, through testcontainers, which also removes it when this process dies."""

    def __init__(
        self,
        image: str,
        command: Sequence[str],
        folder: Path,
        answers: Callable[[], bool],
        *,
        environment: Mapping[str, str] | None = None,
        user: str | None = None,
        stop_signal: Signals = SIGTERM,
    ) -> None:
        # Takes more than a second to import, and is not needed where servers are installed.
        from testcontainers.core.container import DockerContainer

        if user is not None:
            # The user of the image has a number that we do not know.
            folder.chmod(0o777)
        self._made = (
            DockerContainer(image)
            .with_command(list(command))
            .with_envs(**(environment or {}))
            .with_volume_mapping(folder, str(folder), "rw")
            .with_kwargs(
                network_mode="host",
                entrypoint=[],
                working_dir=str(folder),
                user=user or f"{os.getuid()}:{os.getgid()}",
                stop_signal=stop_signal.name,
            )
        )
        self._answers = answers
        self._created = False

    def start(self) -> None:
        if self._created:
            self._made.get_wrapped_container().start()
        else:
            self._made.start()
            self._created = True
        wait_for_answer(self._answers, self._alive, self._story, PATIENCE)

    def stop(self) -> None:
        if self._created:
            self._made.get_wrapped_container().stop(timeout=20)

    def kill(self) -> None:
        if self._created and self._alive():
            self._made.get_wrapped_container().kill("SIGKILL")

    def _alive(self) -> bool:
        container = self._made.get_wrapped_container()
        container.reload()
        return container.status in ("created", "running")

    def _story(self, what: str) -> ServerDidNotStart:
        tail = b"".join(self._made.get_logs()).decode(errors="replace").splitlines()[-30:]
        return ServerDidNotStart("\n".join([f"{self._made.image}: {what}. The end of its log:", *tail]))

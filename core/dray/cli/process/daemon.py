"""Put a worker into the background, and give up root's rights: before the app is imported and any thread is started."""

from __future__ import annotations

import grp
import os
import pwd
import sys
from typing import NamedTuple, Self

from ...errors import DrayError
from ..exits import FAILURE, OK, USAGE, Stop


class Detached:
    """A process in the background, whose caller still waits to hear whether it has started.

    The caller ends with the exit code of what goes wrong within a `with` block of it.
    """

    def __init__(self, caller: int, logfile: str | None) -> None:
        self._caller: int | None = caller
        self._logfile = logfile

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, where: object) -> None:
        if error is None:
            self.failed(OK)
        elif isinstance(error, DrayError | Stop):
            self.failed((error if isinstance(error, Stop) else Stop.on(error)).code)
        else:
            self.failed(FAILURE)

    def started(self) -> None:
        """Leave the caller's terminal, and let it go on: with 0."""
        redirect(self._logfile)
        self.failed(OK)

    def failed(self, code: int) -> None:
        """Let the caller end with this exit code; what is wrong has been said on its terminal. Once is enough."""
        if self._caller is not None:
            try:
                os.write(self._caller, bytes([code & 255]))
            except BrokenPipeError:
                pass  # the caller had no patience
            os.close(self._caller)
            self._caller = None


def detach(logfile: str | None) -> Detached | int:
    """Fork twice, so that no terminal is or becomes this process's own.

    Returns in both: in the process in the background a `Detached`; in the caller, when that has started or failed, the
    exit code to end with.
    """
    heard, caller = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        os.close(caller)
        os.waitpid(child, 0)
        # Closed without a word: it has died.
        return (os.read(heard, 1) or bytes([FAILURE]))[0]
    os.close(heard)
    os.setsid()
    if os.fork():
        os._exit(0)
    return Detached(caller, logfile)


def redirect(logfile: str | None) -> None:
    """Have stdin read nothing, and what is printed go to the logfile, or nowhere."""
    sys.stdout.flush()
    sys.stderr.flush()
    nothing = os.open(os.devnull, os.O_RDWR)
    printed = os.open(logfile, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644) if logfile else nothing
    os.dup2(nothing, 0)
    os.dup2(printed, 1)
    os.dup2(printed, 2)
    for descriptor in {nothing, printed}:
        os.close(descriptor)


class Owner(NamedTuple):
    """Whom a process is to belong to."""

    uid: int
    gid: int
    #: The name of the user, where there is one: for the groups that it is in.
    user: str | None


def owner(user: str | None, group: str | None) -> Owner | None:
    """Return whom --uid and --gid, names or numbers, mean; None: whoever started it. Raises `Stop`."""
    if user is None and group is None:
        return None
    uid, gid, name = os.geteuid(), os.getegid(), None
    if user is not None:
        try:
            entry = pwd.getpwuid(int(user)) if user.isdigit() else pwd.getpwnam(user)
            uid, gid, name = entry.pw_uid, entry.pw_gid, entry.pw_name
        except KeyError:
            if not user.isdigit():
                raise Stop(f"--uid {user}: there is no such user", USAGE) from None
            uid = int(user)
            if group is None:
                raise Stop(f"--uid {user}: this user has no name and no group: give one with --gid", USAGE) from None
    if group is not None:
        try:
            gid = int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
        except KeyError:
            raise Stop(f"--gid {group}: there is no such group", USAGE) from None
    return Owner(uid, gid, name)


def become(wanted: Owner) -> None:
    """Belong to another user from now on, for good: groups, group, user, in this order. Raises `Stop`.

    In any other order the right to do the next step would be gone. Nothing is done for who is it already.
    """
    if (os.getuid(), os.geteuid(), os.getgid(), os.getegid()) == (wanted.uid, wanted.uid, wanted.gid, wanted.gid):
        return
    try:
        if wanted.user is not None:
            os.initgroups(wanted.user, wanted.gid)
        else:
            os.setgroups([wanted.gid])
        os.setgid(wanted.gid)
        os.setuid(wanted.uid)
    except PermissionError:
        raise Stop(
            f"only root can run a worker as another user: this is user {os.geteuid()}, "
            f"asked for user {wanted.uid} and group {wanted.gid}",
            USAGE,
        ) from None
    if wanted.uid != 0:
        try:
            os.setuid(0)
        except PermissionError:
            return
        raise Stop(f"root's rights could not be given up for user {wanted.uid}", FAILURE)

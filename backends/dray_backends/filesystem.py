"""The file:// result backend: a file for each record, in a folder that processes share.

    /var/lib/results/3f/0193a1b2-....        the record; its modification time is when it expires (1970: never)
    /var/lib/results/3f/.lock                held while records of this part of the folder are replaced

Files are replaced as a whole (written beside, then renamed), so a reader sees the old record or the new one, whoever is
killed when. The rule of the first final writer is kept under the lock. Both need a file system that has them: any local
one, and network file systems whose flock works between hosts.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4
from zlib import crc32

import msgspec

from dray import BackendError, BackendUnavailable, DrayError, Record, ResultBackend, Url, UrlError

from .stored_record import Stored, merged, name_of, read, write

#: Parts of the folder, each with a lock of its own.
PARTS = 256
LOCK = ".lock"
#: How a file ends that is not whole yet, and the age (seconds) at which its writer is taken for dead.
UNFINISHED, ABANDONED = ".part", 3600.0
#: Seconds from one sweep of a part of the folder to the next: a part of `store`, one of `PARTS` at a time.
SWEEP_EVERY = 5.0
#: Seconds between two tries to get a lock: the first, and the longest.
FIRST_TRY, LONGEST_TRY = 0.001, 0.05
#: What passes by itself or by tidying up; all else is a folder that is wrong.
PASSING = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOLCK, errno.ESTALE, errno.EINTR}


class FileOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options of the URL."""

    #: True: records survive a power cut, too; each is then waited for until it is on the disk.
    sync: bool = False
    #: Seconds to wait for the lock of another process.
    timeout: float = 10.0


class FileBackend(ResultBackend):
    """`file:///var/lib/results`: a folder, from the root; it is created when missing. Options: `FileOptions`."""

    def __init__(self, url: Url) -> None:
        super().__init__(url)
        self._options = url.options_as(FileOptions)
        if url.hosts or not url.path.strip("/"):
            raise UrlError(f"{url} names no folder; write file:///path/to/folder, with three slashes")
        self.path = Path(url.path)
        self._never = threading.Event()
        #: When (monotonic) the next part is swept, and which.
        self._next_sweep = 0.0
        self._part = 0

    def open(self) -> None:
        with self._translated("opened"):
            self.path.mkdir(parents=True, exist_ok=True)
            # Found out here rather than by the first result.
            probe = self.path / f"{uuid4().hex}{UNFINISHED}"
            probe.touch()
            probe.unlink()

    def close(self) -> None:
        """There is nothing to let go of."""

    # Records

    def store(self, records: Sequence[Record], ttl: float | None) -> None:
        now = self.clock.time()
        expires = None if ttl is None else now + ttl
        parts: defaultdict[str, list[tuple[str, Record]]] = defaultdict(list)
        for record in merged(records):
            name = name_of(record.id)
            parts[_part_of(name)].append((name, record))
        for part, some in parts.items():
            with self._locked(part) as folder:
                for name, record in some:
                    kept = self._read(folder / name, record.id)
                    if kept is None or not kept.stays(record, now):
                        self._replace(folder / name, Stored.of(record, expires))
        if records and self.clock.monotonic() >= self._next_sweep:
            self._next_sweep = self.clock.monotonic() + SWEEP_EVERY
            self._part = (self._part + 1) % PARTS
            self._sweep(f"{self._part:02x}")

    def fetch(self, ids: Sequence[str]) -> Mapping[str, Record]:
        now = self.clock.time()
        found = {}
        for id in ids:
            name = name_of(id)
            with self._translated("fetched"):
                kept = self._read(self.path / _part_of(name) / name, id)
            if kept is not None and not kept.is_over(now):
                found[id] = kept.record
        return found

    def forget(self, ids: Sequence[str]) -> None:
        for id in ids:
            name = name_of(id)
            with self._translated("forgotten"):
                (self.path / _part_of(name) / name).unlink(missing_ok=True)

    def purge(self) -> int:
        return sum(self._sweep(f"{part:02x}") for part in range(PARTS))

    # Inside

    def _sweep(self, part: str) -> int:
        """Delete what has expired in one part; return how many records that were."""
        if not (self.path / part).is_dir():
            return 0
        now, gone = self.clock.time(), 0
        with self._locked(part) as folder, os.scandir(folder) as files:
            for file in files:
                changed = file.stat().st_mtime
                if file.name.endswith(UNFINISHED):
                    if changed < now - ABANDONED:
                        os.unlink(file.path)
                elif file.name != LOCK and 0 < changed <= now:
                    # Copied or touched, a file has another time than its record: the record has the say.
                    kept = self._read(Path(file.path), None)
                    if kept is None or kept.is_over(now):
                        os.unlink(file.path)
                        gone += 1
        return gone

    def _read(self, path: Path, id: str | None) -> Stored | None:
        try:
            return read(path.read_bytes(), id)
        except FileNotFoundError:
            return None

    def _replace(self, path: Path, stored: Stored) -> None:
        """Put a record in its place. Killed before the rename, a file is left over that is never read as a record."""
        unfinished = path.with_name(f"{uuid4().hex}{UNFINISHED}")
        try:
            with open(unfinished, "wb") as file:
                file.write(write(stored))
                if self._options.sync:
                    file.flush()
                    os.fsync(file.fileno())
            os.utime(unfinished, (0, stored.expires or 0))
            os.replace(unfinished, path)
        except BaseException:
            with suppress(OSError):
                unfinished.unlink()
            raise
        if self._options.sync:
            _sync_folder(path.parent)

    @contextmanager
    def _locked(self, part: str) -> Iterator[Path]:
        """Hold one part of the folder against all other writers, of this process and of others."""
        folder = self.path / part
        with self._translated("written to"):
            folder.mkdir(parents=True, exist_ok=True)
            # Opened anew by every holder, for then the lock holds between threads too. The kernel ends it with the
            # process; the file itself stays, as deleting it would give two processes two locks.
            with open(folder / LOCK, "ab") as lock:
                self._wait_for(lock.fileno(), folder)
                yield folder

    def _wait_for(self, lock: int, folder: Path) -> None:
        end = self.clock.monotonic() + self._options.timeout
        pause = FIRST_TRY
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if self.clock.monotonic() >= end:
                    raise BackendUnavailable(
                        f"{folder / LOCK} was held by another process for {self._options.timeout:g} s; is one frozen?"
                    ) from None
            self.clock.wait(self._never, pause)
            pause = min(pause * 2, LONGEST_TRY)

    @contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        try:
            yield
        except DrayError:
            raise
        except OSError as error:
            kind = BackendUnavailable if error.errno in PASSING else BackendError
            raise kind(f"{self.url} cannot be {doing}: {error}") from error


def _part_of(name: str) -> str:
    return f"{crc32(name.encode()) % PARTS:02x}"


def _sync_folder(folder: Path) -> None:
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)

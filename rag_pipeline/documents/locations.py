"""Which files a location holds: a folder, one file, a JSONL file, or the same behind any fsspec URL."""

import fnmatch
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Literal

from rag_pipeline.errors import MisuseError

JSONL_SUFFIXES = (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz")


class LocationError(MisuseError):
    """A location that cannot be read as a whole; the message names it and what to do."""


@dataclass(frozen=True)
class Location:
    """A place documents come from.

    `prefix` is the part of the source's URIs this location speaks for: '' for a folder, the file's name for
    a file, 'name#' for a JSONL file. `--prune` deletes nothing outside it.
    """

    tenant: str
    source: str
    path: str
    kind: Literal["folder", "file", "jsonl"]
    prefix: str
    include: tuple[str, ...] = ()
    remote: bool = False


@dataclass(frozen=True)
class Entry:
    """One file of a location. `token` changes whenever the file may have changed."""

    uri: str
    path: str
    name: str
    token: str
    jsonl: bool
    remote: bool = False


def is_jsonl(name: str) -> bool:
    """Whether the file name says JSON lines, gzipped or not."""
    return name.lower().endswith(JSONL_SUFFIXES)


def printable(name: str) -> str:
    """A file name as PostgreSQL can hold it: bytes that are not UTF-8 become backslash escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace").replace("\x00", "")


def resolve_location(path: str, tenant: str, source: str | None = None, include: Sequence[str] = ()) -> Location:
    """Find out what `path` is. Raises `LocationError` if it does not exist or cannot be reached."""
    if "://" in path:
        return _resolve_remote(path, tenant, source, tuple(include))
    full = Path(path).expanduser().resolve()
    if full.is_dir():
        return Location(tenant, source or printable(str(full)), str(full), "folder", "", tuple(include))
    if not full.exists():
        raise LocationError(f"{path} does not exist. Nothing was read or deleted; check the path.")
    return _file_location(tenant, source or printable(str(full.parent)), str(full), full.name, remote=False)


def _file_location(tenant: str, source: str, path: str, name: str, *, remote: bool) -> Location:
    name = printable(name)
    if is_jsonl(name):
        return Location(tenant, source, path, "jsonl", f"{name}#", remote=remote)
    return Location(tenant, source, path, "file", name, remote=remote)


def _resolve_remote(path: str, tenant: str, source: str | None, include: tuple[str, ...]) -> Location:
    from fsspec.core import url_to_fs

    try:
        system, root = url_to_fs(path)
        if system.isdir(root):
            return Location(tenant, source or path.rstrip("/"), path, "folder", "", include, remote=True)
        if not system.exists(root):
            raise LocationError(f"{path} does not exist. Nothing was read or deleted; check the URL.")
    except (ImportError, ValueError, OSError) as error:
        raise LocationError(f"{path} cannot be opened: {error}") from error
    parent, _, name = path.rpartition("/")
    return _file_location(tenant, source or parent, path, name, remote=True)


def list_entries(location: Location) -> Iterator[Entry]:
    """The files of the location in a stable order. Hidden files and folders are left out."""
    if location.remote:
        yield from _list_remote(location)
    elif location.kind == "folder":
        yield from _list_folder(location)
    else:
        path = Path(location.path)
        yield _local_entry(path, location.prefix.removesuffix("#"))


def _list_folder(location: Location) -> Iterator[Entry]:
    def refuse(error: OSError) -> None:
        raise LocationError(f"{error.filename} cannot be listed: {error.strerror}. Nothing was deleted.")

    for folder, folders, names in os.walk(location.path, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(folder, name)
            uri = printable(path.relative_to(location.path).as_posix())
            if not name.startswith(".") and _included(uri, location.include) and path.is_file():
                yield _local_entry(path, uri)


def _included(uri: str, patterns: Sequence[str]) -> bool:
    name = PurePosixPath(uri).name
    return not patterns or any(fnmatch.fnmatch(uri, p) or fnmatch.fnmatch(name, p) for p in patterns)


def _local_entry(path: Path, uri: str) -> Entry:
    # ctime is in the token because mtime and size survive a careless copy; ctime cannot be set by hand
    status = path.stat()
    token = f"{status.st_dev}:{status.st_ino}:{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}"
    return Entry(uri, str(path), path.name, token, is_jsonl(path.name))


def _list_remote(location: Location) -> Iterator[Entry]:
    from fsspec.core import url_to_fs

    system, root = url_to_fs(location.path)
    paths = sorted(system.find(root)) if location.kind == "folder" else [root]
    for path in paths:
        name = PurePosixPath(path).name
        uri = location.prefix.removesuffix("#") or path[len(root) :].lstrip("/")
        if location.kind == "folder" and (not _included(uri, location.include) or name.startswith(".")):
            continue
        yield Entry(uri, system.unstrip_protocol(path), name, str(system.ukey(path)), is_jsonl(name), remote=True)


def open_entry(entry: Entry) -> IO[bytes]:
    """The entry's bytes as a stream; gzip is opened by its name where the entry is JSON lines."""
    compression = "gzip" if entry.jsonl and entry.name.lower().endswith(".gz") else None
    if entry.remote:
        import fsspec

        return fsspec.open(entry.path, "rb", compression=compression).open()  # type: ignore[no-any-return]
    if compression:
        import gzip

        return gzip.open(entry.path, "rb")  # type: ignore[return-value]
    return open(entry.path, "rb")


def location_token(entries: Sequence[Entry]) -> str:
    """What the whole location looks like: equal tokens mean that nothing was added, changed or removed."""
    import hashlib

    digest = hashlib.sha256()
    for entry in entries:
        digest.update(f"{entry.uri}\0{entry.token}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()

"""Reading a location into documents and versions, in batches that land whole or not at all.

One pass: list, hash, compare, parse only what changed, write. Nothing is remembered between runs but rows.
"""

import hashlib
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from rag_pipeline.database.engine import Database
from rag_pipeline.documents import store as documents
from rag_pipeline.documents.locations import (
    Entry,
    Location,
    LocationError,
    list_entries,
    location_token,
    open_entry,
)
from rag_pipeline.documents.parser_pool import ParserPool
from rag_pipeline.documents.parsing import ParseFailure, ParseRequest
from rag_pipeline.documents.rows import BadRow, Row, clean_text, hash_row, read_rows
from rag_pipeline.documents.store import Incoming
from rag_pipeline.errors import RefusedError
from rag_pipeline.progress import Advance, track
from rag_pipeline.settings import Settings
from rag_pipeline.versions.changes import decide_change
from rag_pipeline.versions.store import read_clock, write_versions

BATCH_DOCUMENTS = 1000
BATCH_CHARACTERS = 8_000_000


@dataclass
class Failure:
    """Input that could not be read."""

    uri: str
    code: str
    reason: str


@dataclass
class IngestReport:
    """What reading did, in documents."""

    added: int = 0
    changed: int = 0
    removed: int = 0
    unchanged: int = 0
    failures: list[Failure] = field(default_factory=list)

    @property
    def failed(self) -> int:
        return len(self.failures)

    def add(self, other: "IngestReport") -> None:
        """Add another location's numbers to these."""
        self.added += other.added
        self.changed += other.changed
        self.removed += other.removed
        self.unchanged += other.unchanged
        self.failures += other.failures


class PruneRefusedError(RefusedError):
    """Pruning would delete everything; the message says what was found and how to mean it."""


def ingest_locations(
    database: Database, settings: Settings, locations: Sequence[Location], *, prune: bool
) -> IngestReport:
    """Read every location; with `prune`, documents that none of them holds any more are deleted.

    Raises `LocationError` if a location cannot be listed and `PruneRefusedError` if an empty one would
    delete all its documents; in both cases nothing is deleted.
    """
    report = IngestReport()
    readings = [_Reading(database, settings, location) for location in locations]
    for reading in readings:
        report.add(reading.run())
    if prune:
        seen = {(r.location.tenant, r.location.source, uri) for r in readings for uri in r.seen}
        for reading in readings:
            report.removed += reading.prune(seen)
    for reading in readings:
        reading.register(prune)
    _forget_other_folders(database, locations)
    return report


class _Reading:
    """One location being read: what is known of it, what was seen in it, the batch on its way."""

    def __init__(self, database: Database, settings: Settings, location: Location) -> None:
        self.database, self.location = database, location
        self.entries = list(list_entries(location))
        with database.connection() as connection:
            scope = (location.tenant, location.source, location.prefix)
            self.known = documents.read_known_documents(connection, *scope)
            self.failed_before = documents.read_known_failures(connection, *scope)
        self.pool = ParserPool(
            workers=settings.parser_workers,
            timeout_seconds=settings.parser_timeout_seconds,
            memory_bytes=settings.parser_memory_mb << 20,
        )
        self.seen: set[str] = set()
        self.hashes: dict[str, tuple[bytes, str]] = {}  # (sha256, token) of the files being parsed
        self.broken: set[str] = set()
        self.report = IngestReport()
        self.batch: list[Incoming] = []
        self.batch_characters = 0
        self.touched: dict[int, str] = {}

    def run(self) -> IngestReport:
        files = [entry for entry in self.entries if not entry.jsonl]
        with track(f"reading {self.location.path}", len(self.entries), "files") as advance, self.pool:
            self._read_files(self._changed_files(files, advance))
            for entry in self.entries:
                if entry.jsonl:
                    self._read_jsonl(entry)
                    advance(1)
        self._flush()
        with self.database.transaction() as connection:
            documents.update_stat_tokens(connection, self.touched)
            gone = [uri for uri in self.failed_before if uri not in self.seen]
            documents.forget_failures_of(connection, self.location.tenant, self.location.source, gone)
        return self.report

    # files -----------------------------------------------------------------------------------------

    def _changed_files(self, entries: Sequence[Entry], advance: Advance) -> Iterator[ParseRequest]:
        """The files whose content is new, with their bytes; unchanged ones are not even opened."""
        for entry in entries:
            advance(1)
            if entry.uri in self.seen:
                continue
            self.seen.add(entry.uri)
            known, failure = self.known.get(entry.uri), self.failed_before.get(entry.uri)
            if known and known.stat_token == entry.token and known.content_sha256 and not failure:
                self.report.unchanged += 1
                continue
            try:
                with open_entry(entry) as stream:
                    content = stream.read()
            except OSError as error:
                reason = f"{entry.uri} cannot be read: {error.strerror or error}. Check its permissions."
                self._fail(entry.uri, b"", "unreadable", reason)
                continue
            sha256 = hashlib.sha256(content).digest()
            change = decide_change(
                sha256, known.content_sha256 if known else None, failure.content_sha256 if failure else None
            )
            if change.kind == "unchanged" and known:
                self.report.unchanged += 1
                self.touched[known.id] = entry.token
                if failure:
                    self._forget(entry.uri)
            elif change.kind == "failed_before" and failure:
                self.report.failures.append(Failure(entry.uri, failure.code, failure.reason))
            else:
                self.hashes[entry.uri] = (sha256, entry.token)
                yield ParseRequest(entry.uri, entry.name, content)

    def _read_files(self, requests: Iterator[ParseRequest]) -> None:
        for outcome in self.pool.parse(requests):
            sha256, token = self.hashes.pop(outcome.key)
            if isinstance(outcome, ParseFailure):
                self._fail(outcome.key, sha256, outcome.code, outcome.reason)
                continue
            self._take(
                Incoming(
                    outcome.key,
                    sha256,
                    outcome.parser,
                    outcome.media_type,
                    outcome.title,
                    outcome.text,
                    dict(outcome.metadata),
                    stat_token=token,
                )
            )

    # rows ------------------------------------------------------------------------------------------

    def _read_jsonl(self, entry: Entry) -> None:
        self.seen.add(entry.uri)
        with track(f"reading {entry.name}", None, "rows") as advance:
            try:
                with open_entry(entry) as stream:
                    for number, row in enumerate(read_rows(stream), start=1):
                        self._take_row(entry, row)
                        if number % 1000 == 0:
                            advance(1000)
            except (OSError, EOFError, zlib.error) as error:
                # a truncated archive: the rows before the damage are in, and none behind it is deleted
                self.broken.add(f"{entry.uri}#")
                reason = f"{entry.uri} ends early: {error}. The rows before that were read; replace the file."
                self._fail(entry.uri, hashlib.sha256(entry.token.encode()).digest(), "malformed", reason)

    def _take_row(self, entry: Entry, row: Row | BadRow) -> None:
        uri = clean_text(f"{entry.uri}#{row.id}")
        self.seen.add(uri)
        if isinstance(row, BadRow):
            if row.nameless:  # it may be any document of this file, which then would count as gone
                self.broken.add(f"{entry.uri}#")
            self._fail(uri, row.sha256, "malformed", f"{entry.uri}: {row.reason}")
            return
        sha256, known = hash_row(row), self.known.get(uri)
        if known and known.content_sha256 == sha256:
            self.report.unchanged += 1
            if uri in self.failed_before:
                self._forget(uri)
            return
        self._take(
            Incoming(
                uri,
                sha256,
                "jsonl@1",
                "application/jsonl",
                row.title,
                row.text,
                row.metadata,
                external_id=row.id,
            )
        )

    # writing ---------------------------------------------------------------------------------------

    def _take(self, item: Incoming) -> None:
        self.batch.append(item)
        self.batch_characters += len(item.text)
        if len(self.batch) >= BATCH_DOCUMENTS or self.batch_characters >= BATCH_CHARACTERS:
            self._flush()

    def _flush(self) -> None:
        if not self.batch:
            return
        with self.database.transaction() as connection:
            documents.lock_changes(connection)
            written = write_versions(connection, self.location.tenant, self.location.source, self.batch)
        self.report.added += written.added
        self.report.changed += written.changed
        self.report.unchanged += written.unchanged
        self.batch, self.batch_characters = [], 0

    def _fail(self, uri: str, sha256: bytes, code: str, reason: str) -> None:
        reason = clean_text(reason)
        self.report.failures.append(Failure(uri, code, reason))
        with self.database.transaction() as connection:
            documents.record_failure(connection, self.location.tenant, self.location.source, uri, sha256, code, reason)

    def _forget(self, uri: str) -> None:
        with self.database.transaction() as connection:
            documents.forget_failures_of(connection, self.location.tenant, self.location.source, [uri])

    # the end ---------------------------------------------------------------------------------------

    def prune(self, seen: set[tuple[str, str, str]]) -> int:
        """Delete the documents of this location that no reading of this run saw."""
        tenant, source = self.location.tenant, self.location.source
        broken = tuple(self.broken)
        live = {uri: known.id for uri, known in self.known.items() if known.content_sha256 is not None}
        gone = [id_ for uri, id_ in live.items() if (tenant, source, uri) not in seen and not uri.startswith(broken)]
        rowless = self.location.kind == "jsonl" and len(self.seen) == 1  # the file itself
        if gone and (rowless or not self.entries):
            raise PruneRefusedError(
                f"{self.location.path} is empty, and --prune would delete all {len(gone)} documents of source "
                f"{source!r}. If that is meant, put one document there; if not, the folder is not mounted, or the "
                "file not written yet."
            )
        if not gone:
            return 0
        with self.database.transaction() as connection:
            documents.lock_changes(connection)
            return len(documents.delete_documents(connection, gone, read_clock(connection)))

    def register(self, prune: bool) -> None:
        """Remember the location, and what it looked like, for the schedule and the sensor."""
        with self.database.transaction() as connection:
            documents.register_source(connection, self.location, prune, location_token(self.entries))


def _forget_other_folders(database: Database, locations: Sequence[Location]) -> None:
    folders: dict[tuple[str, str], list[str]] = {}
    for location in locations:
        if location.kind == "folder":
            folders.setdefault((location.tenant, location.source), []).append(location.path)
    with database.transaction() as connection:
        for (tenant, source), paths in folders.items():
            documents.forget_other_folders(connection, tenant, source, paths)


__all__ = ["Failure", "IngestReport", "LocationError", "PruneRefusedError", "ingest_locations"]

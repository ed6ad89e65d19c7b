"""The `rag` command: parses, calls, prints. Decides nothing.

Exit codes: 0 done, 1 failed, 2 usage, 3 refused by a gate. JSON goes to standard output, all else to
standard error, so that output can be piped.
"""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rag_pipeline.database.engine import Database
    from rag_pipeline.documents.store import DocumentRecord
    from rag_pipeline.settings import Settings

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
tenant_option = click.option("--tenant", default="default", show_default=True, help="Whose documents.")


class Failure(click.ClickException):
    """An expected failure: one sentence, exit code 1."""


class Refused(click.ClickException):
    """A gate said no: exit code 3."""

    exit_code = 3


@contextmanager
def _expected_errors() -> Iterator[None]:
    """Turn the errors that users can do something about into one sentence; anything else keeps its traceback."""
    try:
        yield
    except (click.ClickException, click.exceptions.Exit, click.Abort):
        raise
    except Exception as error:
        kind = _expected_kind(error)
        if kind is None:
            raise
        raise kind(str(error)) from error
    except BaseException as error:
        if type(error).__name__ not in ("KeyboardInterrupt", "DagsterExecutionInterruptedError"):
            raise
        _say("Stopped. What was finished stays; the same command goes on from there.")
        raise click.Abort() from error


def _expected_kind(error: Exception) -> type[click.ClickException] | None:
    names = {cls.__name__ for cls in type(error).__mro__}
    if names & {"GateRefusedError", "PruneRefusedError", "BudgetReachedError"}:
        return Refused
    usage = {"LocationError", "FilterError", "TimeError", "QueryFileError", "UnknownModelError", "SlugTakenError"}
    if names & {*usage, "BudgetError"}:
        return click.UsageError
    expected = {
        "SettingsError",
        "DatabaseError",
        "EmbeddedServerError",
        "MigrationError",
        "ModelError",
        "LlmError",
        "NothingServesError",
        "BuildBusyError",
        "UnknownStemmerError",
        "RunFailedError",
    }
    # LookupError itself is ours; its subclasses KeyError and IndexError would be defects
    return Failure if names & expected or type(error) is LookupError else None


class Group(click.Group):
    """Shows expected errors of every command as one sentence."""

    def invoke(self, ctx: click.Context) -> Any:
        with _expected_errors():
            return super().invoke(ctx)


@click.group(cls=Group, context_settings=CONTEXT)
@click.version_option(package_name="rag_pipeline", prog_name="rag")
def main() -> None:
    """Keep a retrieval index on PostgreSQL + pgvector true: to documents as they change, to the model as it is
    swapped, proven before anyone is served from it."""


def _settings(**overrides: Any) -> "Settings":
    from rag_pipeline.settings import load_settings

    return load_settings(**overrides)


@contextmanager
def _database(settings: "Settings | None" = None) -> Iterator[tuple["Settings", "Database"]]:
    from rag_pipeline.database.engine import open_database

    settings = settings or _settings()
    database = open_database(settings)
    try:
        yield settings, database
    finally:
        database.close()


def _say(text: str = "") -> None:
    click.echo(text, err=True)


def _print_json(value: Any) -> None:
    import orjson

    click.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS, default=str).decode())


def _table(title: str, columns: list[str], rows: list[list[Any]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    for name in columns:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*("" if cell is None else f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row))
    console = Console(markup=False)
    (console if console.is_terminal else Console(markup=False, width=140)).print(table)


# documents -------------------------------------------------------------------------------------------------


@main.command()
@click.argument("paths", nargs=-1, required=True)
@tenant_option
@click.option("--source", help="Name of the source; default: the folder's path.")
@click.option("--include", multiple=True, metavar="GLOB", help="Only files that match; may be repeated.")
@click.option("--prune", is_flag=True, help="Delete documents that are gone from the given paths.")
@json_option
def ingest(
    paths: tuple[str, ...], tenant: str, source: str | None, include: tuple[str, ...], prune: bool, as_json: bool
) -> None:
    """Read folders, files and JSON lines; embed and index what changed. A Dagster run, in process."""
    from rag_pipeline.documents.locations import resolve_location

    locations = [resolve_location(path, tenant, source, include) for path in paths]
    from rag_pipeline.automation.runs import run_ingest
    from rag_pipeline.progress import BarReporter, report_to

    with report_to(BarReporter()):
        result = run_ingest(_settings(), locations, prune=prune)
    failures = result["failures"]
    for failure in failures[:20]:
        _say(f"not read: {failure['uri']} ({failure['code']}): {failure['reason']}")
    if len(failures) > 20:
        _say(f"… and {len(failures) - 20} more: rag status")
    if as_json:
        _print_json({name: value for name, value in result.items() if name != "failures"})
        return
    documents, chunks, embeddings = result["documents"], result["chunks"], result["embeddings"]
    _say(
        f"documents: {documents['added']:,} added, {documents['changed']:,} changed, {documents['removed']:,} removed, "
        f"{documents['unchanged']:,} unchanged, {documents['failed']:,} failed\n"
        f"chunks:    {chunks['new']:,} new, {chunks['reused']:,} reused\n"
        f"embedded:  {embeddings['new']:,} chunks, {result['characters']['embedded']:,} characters\n"
        f"serving:   generation {result['generation']}    "
        + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in result["seconds"].items())
    )


@main.command()
@click.argument("document")
def history(document: str) -> None:
    """The versions of a document (its URI, its id, or its number)."""
    from rag_pipeline.versions.store import read_history

    with _database() as (_, database), database.connection() as connection:
        for found in _find_documents(connection, document):
            rows = [
                [
                    v.ordinal,
                    v.title,
                    v.characters,
                    v.parser,
                    v.content_sha256[:12],
                    f"{v.valid_from:%Y-%m-%d %H:%M:%S}",
                    f"{v.valid_to:%Y-%m-%d %H:%M:%S}" if v.valid_to else "now" if not found.deleted_at else "deleted",
                ]
                for v in read_history(connection, found.id)
            ]
            columns = ["version", "title", "characters", "parser", "sha256", "from", "to"]
            _table(f"{found.uri}  (source {found.source}, tenant {found.tenant})", columns, rows)


@main.command()
@click.argument("document")
@click.argument("versions", nargs=-1, type=int)
def diff(document: str, versions: tuple[int, ...]) -> None:
    """What changed between two versions of a document; default: the last two."""
    from rag_pipeline.versions.comparison import compare_texts
    from rag_pipeline.versions.store import read_history, read_version

    if len(versions) not in (0, 2):
        raise click.UsageError("Give two version numbers, or none for the last two")
    with _database() as (_, database), database.connection() as connection:
        found = _find_documents(connection, document)[0]
        known = [v.ordinal for v in read_history(connection, found.id)]
        if len(known) < 2 and not versions:
            raise Failure(f"{found.uri} has one version; there is nothing to compare it with")
        left, right = versions or (known[-2], known[-1])
        old, new = read_version(connection, found.id, left), read_version(connection, found.id, right)
    if old is None or new is None:
        raise click.UsageError(f"{found.uri} has the versions {known}")
    names = (f"{found.uri} version {left}", f"{found.uri} version {right}")
    colours = {"+": "green", "-": "red", "@": "cyan"}
    for line in compare_texts(old.text, new.text, *names):
        bold = line.startswith(("+++", "---"))
        click.secho(line, fg=None if bold else colours.get(line[:1]), bold=bold)
    if old.metadata != new.metadata:
        click.secho(f"metadata: {old.metadata} -> {new.metadata}", fg="yellow")


def _find_documents(connection: Any, name: str) -> "list[DocumentRecord]":
    from rag_pipeline.documents.store import find_documents

    found = find_documents(connection, name)
    if not found:
        raise click.UsageError(f"No document has the URI, id or number {name!r}. Look them up with: rag search")
    return found


# serving ---------------------------------------------------------------------------------------------------


@main.command()
@click.argument("query")
@click.option("-k", default=10, show_default=True, type=click.IntRange(1, 1000), help="Number of hits.")
@tenant_option
@click.option("--where", multiple=True, metavar="KEY=VALUE", help="Only documents with this metadata; repeatable.")
@click.option("--as-of", metavar="TIME", help="As the documents were then, e.g. 2026-11-21T12:00.")
@click.option("--mode", type=click.Choice(["hybrid", "vector", "lexical"]), default="hybrid", show_default=True)
@click.option("--generation", type=int, help="Search this generation instead of the one that serves.")
@click.option("--relevant-only", is_flag=True, help="Leave out hits below the generation's similarity floor.")
@json_option
def search(
    query: str,
    k: int,
    tenant: str,
    where: tuple[str, ...],
    as_of: str | None,
    mode: Any,
    generation: int | None,
    relevant_only: bool,
    as_json: bool,
) -> None:
    """Find chunks by meaning, by words, or by both."""
    from rag_pipeline.serving.query_writer import log_search
    from rag_pipeline.serving.scope import parse_filters, parse_time
    from rag_pipeline.serving.search import Searcher

    with _database() as (settings, database):
        searcher = Searcher(database, ef_search=settings.ef_search)
        scope: dict[str, Any] = {"k": k, "tenant": tenant, "where": parse_filters(where)}
        result = searcher.search(
            query,
            **scope,
            mode=mode,
            as_of=parse_time(as_of),
            generation=generation,
            relevant_only=relevant_only,
        )
        if generation is None and as_of is None:  # a replay could not ask for either
            log_search(database, settings.query_log_share, result, **scope)
    if result.degraded:
        _say(f"Warning: {result.degraded}")
    if as_json:
        _print_json(asdict(result))
        return
    for hit in result.hits:
        path = " > ".join([hit.title, *hit.heading_path])
        click.secho(f"{hit.rank:>3}  {hit.score:.3f}  {path}", bold=True)
        click.secho(f"     {hit.document_id}, version {hit.version}, characters {hit.start}-{hit.end}", dim=True)
        click.echo("     " + _shorten(hit.text))
    _say(
        f"{len(result.hits)} hits, {mode}, generation {result.generation} ({result.model}), "
        f"embed {result.milliseconds['embed']:.0f} ms, retrieve {result.milliseconds['retrieve']:.0f} ms"
    )


def _shorten(text: str, characters: int = 200) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= characters else flat[: characters - 1] + "…"


@main.command()
@click.argument("query")
@click.option("-k", default=6, show_default=True, type=click.IntRange(1, 100), help="Passages to answer from.")
@tenant_option
@click.option("--stream/--no-stream", default=True, help="Show generated text as it arrives.")
@json_option
def ask(query: str, k: int, tenant: str, stream: bool, as_json: bool) -> None:
    """Answer a question with citations: by the configured LLM, else by quoting."""
    from rag_pipeline.embeddings.registry import find_model
    from rag_pipeline.serving.asking import answer_question, llm_settings
    from rag_pipeline.serving.query_writer import log_search
    from rag_pipeline.serving.search import Searcher

    with _database() as (settings, database):
        llm_settings(settings)  # half a configuration is an error before anything is searched
        result = Searcher(database, ef_search=settings.ef_search).search(query, k=k, tenant=tenant)
        log_search(database, settings.query_log_share, result, tenant=tenant, k=k, where=None)
        if result.degraded:
            _say(f"Warning: {result.degraded}")
        streaming = stream and not as_json
        answer = answer_question(
            settings,
            find_model(database, result.model),
            query,
            result,
            (lambda piece: click.echo(piece, nl=False)) if streaming else None,
        )
    if as_json:
        _print_json(asdict(answer))
        return
    click.echo("" if streaming and answer.kind == "generated" else answer.text or "No passage answers this.")
    for number in answer.citations:
        hit = result.hits[number - 1]
        click.secho(f"  [{number}] {' > '.join([hit.title, *hit.heading_path])}  ({hit.document_id})", dim=True)
    if answer.kind == "extractive":
        _say("Extractive: sentences quoted from the documents. Set RAG_LLM_BASE_URL and RAG_LLM_MODEL to generate.")
    if answer.unknown_citations:
        _say(f"Warning: the answer cites passages that do not exist: {answer.unknown_citations}")


@main.command("eval")
@click.option("--queries", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--qrels", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--generation", type=int, help="Measure this generation instead of the one that serves.")
@click.option("--mode", type=click.Choice(["hybrid", "vector", "lexical", "all"]), default="all", show_default=True)
@click.option("--run", "run_file", type=click.Path(dir_okay=False, path_type=Path), help="Write a TREC run.")
@tenant_option
@json_option
def evaluate(
    queries: Path,
    qrels: Path,
    generation: int | None,
    mode: str,
    run_file: Path | None,
    tenant: str,
    as_json: bool,
) -> None:
    """nDCG@10, recall@100 and MRR on judged queries, over the whole retrieval path."""
    from rag_pipeline.progress import BarReporter, report_to
    from rag_pipeline.serving.evaluation import format_run, measure
    from rag_pipeline.serving.questions import read_queries
    from rag_pipeline.serving.search import Searcher

    judged = read_queries(queries, qrels)
    modes: list[Any] = ["vector", "lexical", "hybrid"] if mode == "all" else [mode]
    with _database() as (settings, database), report_to(BarReporter()):
        searcher = Searcher(database, ef_search=settings.ef_search)
        vectors = None if modes == ["lexical"] else searcher.embed_queries([q.text for q in judged], generation)
        measured = [measure(searcher, judged, vectors, mode=m, generation=generation, tenant=tenant) for m in modes]
    if run_file:
        run_file.write_text(format_run(measured[-1]), encoding="utf-8")
    summaries = [m.summary() for m in measured]
    if as_json:
        _print_json(summaries[-1] if mode != "all" else {s["mode"]: s for s in summaries})
        return
    rows = [
        [s["mode"], f"{s['ndcg_at_10']:.3f}", f"{s['recall_at_100']:.3f}", f"{s['mrr']:.3f}", f"{s['p95_ms']:.1f} ms"]
        for s in summaries
    ]
    _table(
        f"{len(judged)} queries, generation {summaries[0]['generation']}",
        ["mode", "nDCG@10", "recall@100", "MRR", "retrieve p95"],
        rows,
    )


@main.command()
@json_option
def status(as_json: bool) -> None:
    """Every stage at a glance: documents, models, generations, what serves, what failed."""
    from rag_pipeline.serving.status import read_status

    with _database() as (_, database):
        found = read_status(database)
    if as_json:
        _print_json(asdict(found))
        return
    live, deleted = found.documents["live"], found.documents["deleted"]
    click.echo(f"{live:,} documents ({deleted:,} deleted), {found.versions:,} versions, {found.chunks:,} chunks")
    if found.models:
        columns = ["slug", "source", "state", "dimension", "max_tokens", "vectors"]
        _table("Models", columns, [[m[c] for c in columns] for m in found.models])
    if found.generations:
        columns = [
            "id",
            "model",
            "state",
            "rows",
            "chunks",
            "missing",
            "index_valid",
            "index_bytes",
            "pending_documents",
        ]
        _table("Generations", columns, [[g.get(c) for c in columns] for g in found.generations])
    if found.failures:
        columns = ["uri", "code", "reason"]
        _table("Not read (tried again when they change)", columns, [[f[c] for c in columns] for f in found.failures])
    if found.embedding_failures:
        columns = ["model", "chunk_id", "reason"]
        _table("Not embedded", columns, [[f[c] for c in columns] for f in found.embedding_failures])
    if found.serving is None:
        _say("Nothing serves yet. Start with: rag ingest PATH")


# models ----------------------------------------------------------------------------------------------------


@main.group(cls=Group)
def model() -> None:
    """Embedding models: add, plan, swap, roll back."""


@model.command("add")
@click.argument("slug")
@click.argument("source")
@click.option("--query-prompt", default="", help="Put in front of every query.")
@click.option("--document-prompt", default="", help="Put in front of every document.")
@click.option("--base-url", help="Endpoint of an openai:MODEL source.")
@click.option("--sha256", help="The weights must have this hash.")
@click.option("--no-normalise", is_flag=True, help="Keep vector lengths as the model gives them.")
def model_add(
    slug: str,
    source: str,
    query_prompt: str,
    document_prompt: str,
    base_url: str | None,
    sha256: str | None,
    no_normalise: bool,
) -> None:
    """Register a model under SLUG and probe it once.

    SOURCE is packaged:all-MiniLM-L6-v2, a directory, a Hugging Face name, model2vec:DIRECTORY_OR_NAME, or
    openai:MODEL with --base-url.
    """
    from rag_pipeline.embeddings.models import ModelSpec
    from rag_pipeline.embeddings.registry import add_model

    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", slug):
        raise click.UsageError(f"{slug!r}: a slug has up to 63 letters, digits, '.', '-' and '_'")
    spec = ModelSpec(slug, source, query_prompt, document_prompt, not no_normalise, base_url, sha256)
    with _database() as (_, database):
        record = add_model(database, spec)
    same = f", the same space as model {record.space_id}: nothing to embed" if record.space_id != record.id else ""
    _say(f"{slug}: {record.dimension} dimensions, {record.max_tokens or 'any number of'} tokens{same}")


@model.command("distil")
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@click.option("--dimension", default=256, show_default=True, type=click.IntRange(32, 384))
def model_distil(directory: Path, dimension: int) -> None:
    """Distil a static model (model2vec) from the packaged all-MiniLM-L6-v2: hundreds of times faster, less exact.

    Takes about half a minute and no network. Register it with: rag model add SLUG model2vec:DIRECTORY
    """
    from rag_pipeline.embeddings.static import distil_static_model

    _say(f"distilled into {distil_static_model(directory, dimension)}")


@model.command("list")
@json_option
def model_list(as_json: bool) -> None:
    """The registered models."""
    from rag_pipeline.serving.status import read_status

    with _database() as (_, database):
        models = read_status(database).models
    if as_json:
        _print_json(models)
        return
    columns = ["slug", "source", "state", "dimension", "max_tokens", "vectors"]
    _table("Models", columns, [[m[c] for c in columns] for m in models])


price_option = click.option(
    "--price-per-million", type=click.FloatRange(0), help="Price of a million tokens; default: RAG_PRICE_PER_MILLION."
)


@model.command("plan")
@click.argument("slug")
@price_option
@click.option("--tokens-per-minute", type=click.FloatRange(0, min_open=True), help="The provider's rate limit.")
@json_option
def model_plan(slug: str, price_per_million: float | None, tokens_per_minute: float | None, as_json: bool) -> None:
    """What a swap to SLUG would take, before anything is spent."""
    from rag_pipeline.embeddings.registry import find_model
    from rag_pipeline.index.planning import plan_swap

    with _database() as (settings, database):
        plan = plan_swap(
            database,
            settings,
            find_model(database, slug),
            price_per_million=price_per_million,
            tokens_per_minute=tokens_per_minute,
        )
    if as_json:
        _print_json(asdict(plan))
        return
    build = plan.build
    limited = "no limit given: --tokens-per-minute" if plan.limit_seconds is None else f"{plan.limit_seconds:,.0f} s"
    _table(
        f"Swap to {slug}",
        ["what", "how much"],
        [
            ["chunks to embed", f"{plan.to_embed:,} of {plan.chunks:,} ({plan.in_ledger:,} in the ledger)"],
            ["tokens", plan.tokens],
            ["money", "no price given: --price-per-million" if plan.cost is None else f"{plan.cost:,.4f}"],
            ["embedding at the probed rate", f"{plan.embed_seconds:,.0f} s"],
            ["embedding at the provider's limit", limited],
            ["HNSW index (RAM to serve from)", f"{build.index_bytes / 2**20:,.1f} MB"],
            ["index table", f"{build.table_bytes / 2**20:,.1f} MB"],
            ["disk during the swap", f"{plan.disk_bytes / 2**20:,.1f} MB more"],
            ["index build", "not known yet" if plan.build_seconds is None else f"about {plan.build_seconds:,.0f} s"],
            ["memory for the build", f"{build.memory_mb:,} MB"],
        ],
    )
    if build.warning:
        _say(build.warning)


@model.command("swap")
@click.argument("slug")
@click.option("--yes", is_flag=True, help="Do not ask before embedding.")
@click.option("--auto-promote", is_flag=True, help="Let it serve if the verdict allows.")
@click.option("--max-tokens", type=click.IntRange(0), help="Embed at most so many tokens, then pause: exit code 3.")
@click.option("--max-cost", type=click.FloatRange(0), help="Spend at most so much, then pause: exit code 3.")
@price_option
def model_swap(
    slug: str,
    yes: bool,
    auto_promote: bool,
    max_tokens: int | None,
    max_cost: float | None,
    price_per_million: float | None,
) -> None:
    """Fill, build and prove a generation of SLUG beside the one that serves. Dagster runs, in process.

    Paused by its budget, the same command goes on: nothing is embedded twice.
    """
    from rag_pipeline.embeddings.filling import make_budget
    from rag_pipeline.embeddings.registry import find_model
    from rag_pipeline.index.planning import plan_swap

    with _database() as (settings, database):
        price = price_per_million if price_per_million is not None else settings.price_per_million
        budget = make_budget(max_tokens, max_cost, price)
        plan = plan_swap(database, settings, find_model(database, slug), price_per_million=price)
    money = "" if plan.cost is None else f", {plan.cost:,.4f} in money"
    _say(f"{slug}: {plan.to_embed:,} chunks to embed ({plan.tokens:,} tokens{money}), {plan.in_ledger:,} in the ledger")
    if plan.to_embed and not yes:
        click.confirm("Go on?", abort=True, err=True)
    from rag_pipeline.automation.runs import run_model_swap
    from rag_pipeline.progress import BarReporter, report_to

    with report_to(BarReporter()):
        outcome = run_model_swap(
            settings, slug, promote=auto_promote, max_tokens=budget.tokens_left if budget else None
        )
    _say(f"generation {outcome['generation']}: verdict {outcome['verdict']}: {outcome['reason']}")
    if auto_promote and not outcome["promoted"]:
        raise Refused(
            f"Not promoted. See the evidence: rag status; override: rag model promote {slug} --force --reason …"
        )
    _say("it serves now" if outcome["promoted"] else f"let it serve with: rag model promote {slug}")


@model.command("promote")
@click.argument("slug")
@click.option("--force", is_flag=True, help="Override the verdict; recorded.")
@click.option("--reason", default="", help="Why; needed with --force.")
def model_promote(slug: str, force: bool, reason: str) -> None:
    """Let the ready generation of SLUG serve, if its verdict allows."""
    from rag_pipeline.embeddings.registry import find_model
    from rag_pipeline.index.store import list_generations
    from rag_pipeline.serving.promotion import promote

    if force and not reason.strip():
        raise click.UsageError("--force needs --reason: it is recorded with your name")
    with _database() as (settings, database):
        record = find_model(database, slug)
        with database.connection() as connection:
            candidates = [
                g for g in list_generations(connection, ["ready", "soaking", "serving"]) if g.model_id == record.id
            ]
        if not candidates:
            raise Refused(f"No generation of {slug} is ready; build it with: rag model swap {slug}")
        reason, wait = reason or "promoted by hand", settings.warm_seconds
        promote(database, candidates[-1].id, actor=_actor(), reason=reason, force=force, warm_seconds=wait)
    _say(f"generation {candidates[-1].id} ({slug}) serves")


@model.command("rollback")
@click.option("--reason", default="rolled back by hand", show_default=True)
def model_rollback(reason: str) -> None:
    """Let the previous generation serve again, with everything written since."""
    from rag_pipeline.serving.promotion import rollback

    with _database() as (settings, database):
        number = rollback(database, actor=_actor(), reason=reason, warm_seconds=settings.warm_seconds)
    _say(f"generation {number} serves again")


@model.command("retire")
@click.argument("slug", required=False)
@click.option("--generation", type=int, help="Only this generation.")
def model_retire(slug: str | None, generation: int | None) -> None:
    """Drop the index of SLUG's generations that do not serve; their vectors stay in the ledger.

    After the soak (RAG_SOAK_HOURS) a schedule does this by itself. A retired generation cannot be rolled back to.
    """
    from rag_pipeline.embeddings.registry import find_model
    from rag_pipeline.serving.retirement import retire_generation, retire_model

    if (slug is None) == (generation is None):
        raise click.UsageError("Give a model's SLUG, or --generation N")
    with _database() as (_, database):
        if generation is not None:
            one = retire_generation(database, generation)
            done = [one] if one else []
        else:
            done = retire_model(database, find_model(database, str(slug)).slug)
    for retired in done:
        _say(f"generation {retired.generation} ({retired.model}, was {retired.was}): retired, its index is dropped")
    if not done:
        _say("nothing to retire")


def _actor() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


# care ------------------------------------------------------------------------------------------------------


@main.command()
@click.option("--repair", "repairing", is_flag=True, help="Mend what is found.")
@json_option
def doctor(repairing: bool, as_json: bool) -> None:
    """Compare documents, ledger and index whole; exit 1 if anything is not true."""
    from rag_pipeline.serving.diagnosis import diagnose, mend

    with _database() as (settings, database):
        findings = diagnose(database, settings)
        if repairing and any(not f.good for f in findings):
            mend(database, settings)
            findings = diagnose(database, settings)
    if as_json:
        _print_json([asdict(f) for f in findings])
    else:
        for finding in findings:
            click.secho("ok   " if finding.good else "BAD  ", fg="green" if finding.good else "red", nl=False)
            click.echo(f"{finding.name}: {finding.detail}")
    if any(not f.good for f in findings):
        sys.exit(1)


@main.command()
@json_option
def settings(as_json: bool) -> None:
    """Every setting with its value and where it came from; secrets are masked."""
    from rag_pipeline.settings import describe_settings

    rows = describe_settings(_settings())
    if as_json:
        _print_json([asdict(row) for row in rows])
        return
    _table(
        "Settings (RAG_… in the environment, or rag.toml)",
        ["name", "value", "from", "meaning"],
        [[r.name, r.value, r.origin, r.description] for r in rows],
    )


@main.group(cls=Group)
def golden() -> None:
    """Judged queries that candidates are compared on."""


@golden.command("add")
@click.option("--queries", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--qrels", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@tenant_option
def golden_add(queries: Path, qrels: Path, tenant: str) -> None:
    """Add queries with judgements; they take the place of known-item queries in evaluations."""
    from rag_pipeline.serving.questions import read_queries
    from rag_pipeline.serving.store import upsert_golden_query

    judged = read_queries(queries, qrels)
    with _database() as (_, database), database.transaction() as connection:
        for query in judged:
            upsert_golden_query(connection, tenant, query.id, query.text, dict(query.relevant))
    _say(f"{len(judged)} judged queries")


@main.command()
@click.option("--port", default=3000, show_default=True, help="Of the Dagster UI.")
@click.option("--api-port", default=3001, show_default=True, help="Of the search API.")
def up(port: int, api_port: int) -> None:
    """Start the database, the search API, Dagster's UI and its daemon; Ctrl-C stops all."""
    from rag_pipeline.automation.services import run_services

    sys.exit(run_services(_settings(), port, api_port))


if __name__ == "__main__":
    main()

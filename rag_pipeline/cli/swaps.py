"""Commands on generations, by their model: plan, swap, compare, promote, rollback, retire."""

import getpass
from dataclasses import asdict
from pathlib import Path

import click

from rag_pipeline.cli.shell import connect, json_option, print_json, print_table, say, show_progress
from rag_pipeline.errors import RefusedError

price_option = click.option(
    "--price-per-million", type=click.FloatRange(0), help="Price of a million tokens; default: RAG_PRICE_PER_MILLION."
)


@click.command("plan")
@click.argument("slug")
@price_option
@click.option("--tokens-per-minute", type=click.FloatRange(0, min_open=True), help="The provider's rate limit.")
@json_option
def plan(slug: str, price_per_million: float | None, tokens_per_minute: float | None, as_json: bool) -> None:
    """What a swap to SLUG would take, before anything is spent."""
    from rag_pipeline.embeddings.registry import find_model
    from rag_pipeline.index.planning import plan_swap

    with connect() as (settings, database):
        plan = plan_swap(
            database,
            settings,
            find_model(database, slug),
            price_per_million=price_per_million,
            tokens_per_minute=tokens_per_minute,
        )
    if as_json:
        print_json(asdict(plan))
        return
    build = plan.build
    limited = "no limit given: --tokens-per-minute" if plan.limit_seconds is None else f"{plan.limit_seconds:,.0f} s"
    print_table(
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
        say(build.warning)


@click.command("swap")
@click.argument("slug")
@click.option("--yes", is_flag=True, help="Do not ask before embedding.")
@click.option("--auto-promote", is_flag=True, help="Let it serve if the verdict allows.")
@click.option("--max-tokens", type=click.IntRange(0), help="Embed at most so many tokens, then pause: exit code 3.")
@click.option("--max-cost", type=click.FloatRange(0), help="Spend at most so much, then pause: exit code 3.")
@price_option
def swap(
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
    from rag_pipeline.embeddings.registry import find_model, register_configured_models
    from rag_pipeline.index.planning import plan_swap

    with connect() as (settings, database):
        price = price_per_million if price_per_million is not None else settings.price_per_million
        budget = make_budget(max_tokens, max_cost, price)
        if reason := register_configured_models(database, settings.models).get(slug):
            raise RefusedError(reason)
        plan = plan_swap(database, settings, find_model(database, slug), price_per_million=price)
    money = "" if plan.cost is None else f", {plan.cost:,.4f} in money"
    say(f"{slug}: {plan.to_embed:,} chunks to embed ({plan.tokens:,} tokens{money}), {plan.in_ledger:,} in the ledger")
    if plan.to_embed and not yes:
        click.confirm("Go on?", abort=True, err=True)
    from rag_pipeline.automation.runs import run_model_swap

    with show_progress():
        outcome = run_model_swap(
            settings, slug, promote=auto_promote, max_tokens=budget.tokens_left if budget else None
        )
    say(f"generation {outcome['generation']}: verdict {outcome['verdict']}: {outcome['reason']}")
    if auto_promote and not outcome["promoted"]:
        raise RefusedError(
            f"Not promoted. The evidence: rag model compare {slug}; to override: rag model promote {slug} --force"
        )
    say("it serves now" if outcome["promoted"] else f"let it serve with: rag model promote {slug}")


@click.command("compare")
@click.argument("candidate")
@click.argument("baseline", required=False)
@click.option("--fresh", is_flag=True, help="Ask both again instead of showing the newest evaluation on record.")
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="Write one page with tables and plots.")
@json_option
def compare(candidate: str, baseline: str | None, fresh: bool, html: Path | None, as_json: bool) -> None:
    """CANDIDATE against BASELINE (default: what serves): figures with intervals, and the queries that got worse.

    Each is a model's slug or a generation's number. Without an evaluation on record both are asked now.
    """
    from rag_pipeline.serving.comparing import list_figures, list_soundness
    from rag_pipeline.serving.comparison import compare_generations

    with connect() as (settings, database), show_progress():
        found = compare_generations(database, settings, candidate, baseline, fresh=fresh)
    metrics = found.evaluation.metrics
    if html:
        from rag_pipeline.serving.comparison_page import render_page

        html.write_text(render_page(found), encoding="utf-8")
        say(f"written: {html}")
    if as_json:
        print_json(found.to_json())
        return
    names = [f"{g.model} (generation {g.id})" for g in (found.candidate, found.baseline)]
    if rows := list_figures(metrics):
        columns = ["", names[0], names[1], "difference (95 % interval)"]
        print_table(f"{names[0]} against {names[1]}", columns, [list(row) for row in rows])
    print_table(f"{names[0]} by itself", ["", ""], [list(row) for row in list_soundness(metrics)])
    if worst := metrics.get("worst"):
        print_table(
            "Queries that got worse",
            ["query", "nDCG@10", "was", "finds now", "found before"],
            [[w["query"], *w["ndcg_at_10"], *("\n".join(w[s][:3]) for s in ("candidate", "baseline"))] for w in worst],
        )
    for note in metrics.get("notes", []):
        say(note)
    say(f"{found.evaluation.verdict}: {found.evaluation.reason}")


@click.command("promote")
@click.argument("slug")
@click.option("--force", is_flag=True, help="Override the verdict; recorded.")
@click.option("--reason", default="", help="Why; needed with --force.")
def promote(slug: str, force: bool, reason: str) -> None:
    """Let the ready generation of SLUG serve, if its verdict allows."""
    from rag_pipeline.embeddings.registry import find_model
    from rag_pipeline.index.store import find_candidate
    from rag_pipeline.serving import promotion

    if force and not reason.strip():
        raise click.UsageError("--force needs --reason: it is recorded with your name")
    with connect() as (settings, database):
        with database.connection() as connection:
            candidate = find_candidate(connection, find_model(database, slug).slug)
        if candidate is None:
            raise RefusedError(f"No generation of {slug} is ready; build it with: rag model swap {slug}")
        promotion.promote(
            database,
            candidate.id,
            actor=_actor(),
            reason=reason or "promoted by hand",
            force=force,
            warm_seconds=settings.warm_seconds,
        )
    say(f"generation {candidate.id} ({slug}) serves")


@click.command("rollback")
@click.option("--reason", default="rolled back by hand", show_default=True)
def rollback(reason: str) -> None:
    """Let the previous generation serve again, with everything written since."""
    from rag_pipeline.serving import promotion

    with connect() as (settings, database):
        number = promotion.rollback(database, actor=_actor(), reason=reason, warm_seconds=settings.warm_seconds)
    say(f"generation {number} serves again")


@click.command("retire")
@click.argument("slug", required=False)
@click.option("--generation", type=int, help="Only this generation.")
def retire(slug: str | None, generation: int | None) -> None:
    """Drop the index of SLUG's generations that do not serve; their vectors stay in the ledger.

    After the soak (RAG_SOAK_HOURS) a schedule does this by itself. A retired generation cannot be rolled back to.
    """
    from rag_pipeline.embeddings.registry import find_model
    from rag_pipeline.serving.retirement import retire_generation, retire_model

    if (slug is None) == (generation is None):
        raise click.UsageError("Give a model's SLUG, or --generation N")
    with connect() as (_, database):
        if generation is not None:
            one = retire_generation(database, generation)
            done = [one] if one else []
        else:
            done = retire_model(database, find_model(database, str(slug)).slug)
    for retired in done:
        say(f"generation {retired.generation} ({retired.model}, was {retired.was}): retired, its index is dropped")
    if not done:
        say("nothing to retire")


def _actor() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"

"""The import rule: from shell to store to pure, from a later stage to an earlier one, never back."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import rag_pipeline

ROOT = Path(rag_pipeline.__file__).parent
STAGES = ("documents", "versions", "chunks", "embeddings", "index", "serving")
SHELL = {"cli", "definitions", "automation"}
# What only stores, and what runs a whole step, may import.
DATABASE = {"psycopg", "sqlalchemy", "aiosql"}
CONTROL = {"dagster", "dagster_postgres"}

# Orchestrations: they open transactions and hand the connection on to stores. Any other module that wants a
# connection must become a store, or get a line here with a reason.
STEPS = {
    "versions.ingestion": "reads a location into the database, batch by batch",
    "chunks.cutting": "cuts what is missing, batch by batch",
    "embeddings.filling": "embeds what is missing; leases live on a session of its own",
    "embeddings.registry": "registers a model under a lock",
    "index.applying": "one transaction per delta",
    "index.building": "load, build, catch up; the build has a session of its own",
    "index.planning": "reads what a swap would take",
    "index.reconciliation": "its comparisons are SQL composed per table",
    "serving.search": "one search on one connection",
    "serving.legs": "asks both legs of a search on its connection",
    "serving.query_writer": "appends to the query log, beside the searches of a process",
    "serving.warming": "looks at what may serve next, beats, and waits for those that warm up",
    "serving.known_items": "asks the legs of one generation on one connection",
    "serving.evaluation": "measures and records a verdict",
    "serving.retirement": "one transaction per step of a retirement, so that it resumes",
    "serving.promotion": "moves the pointer in one transaction",
    "serving.diagnosis": "looks at every stage for `rag doctor`",
    "serving.status": "one look at every stage in one transaction",
    "serving.api": "tells a database that is away from a fault of its own, by psycopg's errors",
    "serving.scope": "composes conditions from psycopg.sql, runs nothing",
}
# Statements outside a store: each with its reason.
STATEMENTS = {
    "index.building": "locks the generations, sets maintenance_work_mem for its session",
    "embeddings.registry": "takes the model lock",
    "serving.assets": "switches the planner's choices for its own session, to explain a search",
    "serving.diagnosis": "asks for the versions of server and extension",
    "serving.status": "sets the isolation of its transaction",
}


def list_modules() -> dict[str, Path]:
    return {
        path.relative_to(ROOT).with_suffix("").as_posix().replace("/", "."): path
        for path in sorted(ROOT.rglob("*.py"))
        if path.name != "__init__.py"
    }


MODULES = list_modules()


def list_imports(path: Path, *, at_run_time: bool = True) -> Iterator[str]:
    """Everything a module imports, inside functions too; with `at_run_time`, not what is only for the type checker."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped: set[ast.AST] = set()
    if at_run_time:
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                skipped |= {inner for child in node.body for inner in ast.walk(child)}
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def list_own_imports(path: Path) -> set[str]:
    found = {name.removeprefix("rag_pipeline.") for name in list_imports(path) if name.startswith("rag_pipeline.")}
    return {name for name in found if name in MODULES or name.split(".")[0] in {*STAGES, *SHELL, "database"}}


def stage_of(module: str) -> int | None:
    first = module.split(".")[0]
    return STAGES.index(first) if first in STAGES else None


def is_asset_shell(module: str) -> bool:
    return module.split(".")[-1] in ("assets", "ops", "checks") or module.split(".")[0] in SHELL


def is_store(module: str) -> bool:
    return module.endswith("store") or module.split(".")[0] == "database"


@pytest.mark.parametrize("module", MODULES)
def test_a_stage_imports_no_later_stage_and_no_shell(module: str) -> None:
    stage = stage_of(module)
    if stage is None or is_asset_shell(module):
        return
    for imported in list_own_imports(MODULES[module]):
        other = stage_of(imported)
        assert other is None or other <= stage, f"{module} imports {imported}, a later stage"
        assert imported.split(".")[0] not in SHELL, f"{module} imports {imported}, the shell"
        assert not is_asset_shell(imported), f"{module} imports {imported}, the shell"


@pytest.mark.parametrize("module", [m for m in MODULES if is_asset_shell(m) and stage_of(m) is not None])
def test_the_assets_of_a_stage_import_no_later_stage(module: str) -> None:
    stage = stage_of(module)
    assert stage is not None
    for imported in list_own_imports(MODULES[module]):
        other = stage_of(imported)
        assert other is None or other <= stage, f"{module} imports {imported}, a later stage"


@pytest.mark.parametrize("module", MODULES)
def test_dagster_is_known_to_assets_definitions_and_automation_only(module: str) -> None:
    if is_asset_shell(module) and module != "cli":
        return
    found = {name.split(".")[0] for name in list_imports(MODULES[module])} & CONTROL
    assert not found, f"{module} imports {found}"


@pytest.mark.parametrize("module", MODULES)
def test_pure_modules_know_no_database(module: str) -> None:
    if stage_of(module) is None or is_store(module) or is_asset_shell(module) or module in STEPS:
        return
    imports = set(list_imports(MODULES[module]))
    outside = {name.split(".")[0] for name in imports} & DATABASE
    stores = {name for name in list_own_imports(MODULES[module]) if is_store(name) and not name.endswith("files")}
    assert not outside, f"{module} imports {outside}: make it a store, or list it as a step with a reason"
    records = {name for name in stores if name.count(".") == 1 and name.split(".")[0] != "database"}
    assert not stores - records, f"{module} imports {stores - records}"


@pytest.mark.parametrize("module", MODULES)
def test_statements_are_run_by_stores_only(module: str) -> None:
    if is_store(module) or module == "index.reconciliation" or module in STATEMENTS:
        return
    calls = [
        node
        for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("execute", "executemany", "copy")
    ]
    lines = [call.lineno for call in calls if not ast.unparse(call).startswith(("shutil.", "copy."))]
    assert not lines, f"{module} runs statements in lines {lines}"


def test_what_is_excepted_still_needs_it() -> None:
    assert set(STEPS) <= set(MODULES)
    assert set(STATEMENTS) <= set(MODULES)
    for module in STATEMENTS:
        assert ".execute(" in MODULES[module].read_text(encoding="utf-8"), f"{module} is no exception any more"


@pytest.mark.parametrize("module", MODULES)
def test_heavy_libraries_are_imported_inside_functions(module: str) -> None:
    heavy = {
        "torch",
        "transformers",
        "sentence_transformers",
        "model2vec",
        "pandas",
        "matplotlib",
        "xberg",
        "pypdfium2",
    }
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name for alias in node.names} if isinstance(node, ast.Import) else {node.module or ""}
            assert not {name.split(".")[0] for name in names} & heavy, f"{module}, line {node.lineno}"


def test_every_module_can_be_named_by_its_stage_and_role() -> None:
    vague = {"utils", "helpers", "helper", "common", "misc", "manager", "base"}
    assert not [module for module in MODULES if set(module.split(".")) & vague]

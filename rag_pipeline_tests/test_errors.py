"""Every error of ours says who has to act; nothing else is shown to a user as one sentence."""

import ast
import builtins
from pathlib import Path

import pytest

import rag_pipeline
from rag_pipeline.automation.runs import RunFailedError
from rag_pipeline.database.engine import DatabaseError
from rag_pipeline.documents.locations import LocationError
from rag_pipeline.embeddings.filling import BudgetError, BudgetReachedError
from rag_pipeline.embeddings.models import ModelError
from rag_pipeline.embeddings.registry import DriftError, SlugTakenError, UnknownModelError
from rag_pipeline.errors import ExpectedError, MissingError
from rag_pipeline.index.applying import RetiredGenerationError
from rag_pipeline.index.building import BuildBusyError
from rag_pipeline.serving.promotion import GateRefusedError
from rag_pipeline.serving.questions import QueryFileError
from rag_pipeline.serving.scope import FilterError, TimeError
from rag_pipeline.serving.search import NothingServesError
from rag_pipeline.settings import SettingsError
from rag_pipeline.versions.ingestion import PruneRefusedError

EXIT_CODES: list[tuple[int, list[type[ExpectedError]]]] = [
    (1, [DatabaseError, SettingsError, ModelError, DriftError, NothingServesError, BuildBusyError, MissingError]),
    (1, [RunFailedError, RetiredGenerationError]),
    (2, [LocationError, FilterError, TimeError, QueryFileError, UnknownModelError, SlugTakenError, BudgetError]),
    (3, [GateRefusedError, PruneRefusedError, BudgetReachedError]),
]
FILES = sorted(Path(rag_pipeline.__file__).parent.rglob("*.py"))
BUILT_IN = {name for name, value in vars(builtins).items() if isinstance(value, type) and issubclass(value, Exception)}


@pytest.mark.parametrize(("code", "kinds"), EXIT_CODES, ids=["failed", "failed runs", "usage", "refused"])
def test_an_error_says_what_the_command_line_ends_with(code: int, kinds: list[type[ExpectedError]]) -> None:
    assert {kind.__name__: kind.exit_code for kind in kinds} == {kind.__name__: code for kind in kinds}


def test_every_error_class_of_ours_is_an_expected_one() -> None:
    found = {
        (path.name, node.name): {ast.unparse(base) for base in node.bases}
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    }
    errors = {where: bases for where, bases in found.items() if bases & BUILT_IN}
    assert len(errors) > 5
    # a private one never leaves its module
    bare = [where for where, bases in errors.items() if bases <= BUILT_IN and not where[1].startswith("_")]
    assert bare == [("errors.py", "ExpectedError")]


def test_a_bare_lookup_error_is_raised_nowhere() -> None:
    raised = [
        f"{path.name}:{node.lineno}"
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Raise) and node.exc is not None and ast.unparse(node.exc).startswith("LookupError")
    ]
    assert raised == []

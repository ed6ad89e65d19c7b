"""An index recipe and what building it takes. Pure."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

PAGE_BYTES = 8192
PAGE_HEADER_BYTES = 24
LINE_POINTER_BYTES = 4
# pgvector src/hnsw.h: HnswElementTupleData is 72 bytes before the vector, a neighbour tuple 4 bytes and
# 6 bytes a link; a vector is 8 bytes + values. In memory an element and its links take about 128 bytes
# more and 16 bytes a link (measured on 100 k rows: within a tenth).
ELEMENT_TUPLE_BYTES = 72
NEIGHBOUR_TUPLE_BYTES = 4
LINK_BYTES = 6
MEMORY_ELEMENT_BYTES = 128
MEMORY_LINK_BYTES = 16
VECTOR_HEADER_BYTES = 8
BYTES_PER_VALUE = {"halfvec": 2, "vector": 4}
LARGEST_DIMENSION = {"halfvec": 4000, "vector": 2000}


@dataclass(frozen=True)
class IndexRecipe:
    """How vectors are indexed. `vector_type` is the column's type; distance is cosine."""

    vector_type: Literal["halfvec", "vector"] = "halfvec"
    m: int = 16
    ef_construction: int = 64

    @property
    def operator_class(self) -> str:
        return f"{self.vector_type}_cosine_ops"

    def to_json(self) -> dict[str, Any]:
        """The recipe as the database keeps it."""
        return asdict(self)


@dataclass(frozen=True)
class BuildPlan:
    """What a build will take: `index_bytes` on disk, `graph_bytes` in memory for a fast build."""

    rows: int
    dimension: int
    index_bytes: int
    table_bytes: int
    graph_bytes: int
    memory_mb: int
    fits: bool

    @property
    def warning(self) -> str | None:
        """What to say before a build that will spill, or None."""
        if self.fits:
            return None
        return (
            f"The HNSW graph of {self.rows:,} x {self.dimension} needs about {self.graph_bytes >> 20:,} MB and "
            f"gets {self.memory_mb:,} MB: the build will be several times slower. Raise RAG_BUILD_MEMORY_MB."
        )


def check_dimension(recipe: IndexRecipe, dimension: int) -> None:
    """Raise ValueError where pgvector cannot index that many dimensions of that type."""
    most = LARGEST_DIMENSION[recipe.vector_type]
    if dimension > most:
        raise ValueError(
            f"pgvector indexes at most {most} dimensions of {recipe.vector_type}, the model has {dimension}. "
            + ("Use halfvec (RAG_VECTOR_TYPE)." if recipe.vector_type == "vector" else "Choose another model.")
        )


def choose_workers(cores: int, *, serving: bool) -> int | None:
    """Parallel workers of a build beside the process that leads it; None leaves it to the server.

    While something serves, one core is left to the searches. On two cores, over 100,000 rows of 384 dimensions,
    that took the 95th percentile of their latency during the build from 91 to 68 ms, and the build from 40 to 58 s.
    """
    return max(0, cores - 2) if serving else None


def plan_build(recipe: IndexRecipe, rows: int, dimension: int, ceiling_mb: int) -> BuildPlan:
    """Disk and memory of an HNSW build by page arithmetic; memory is what is needed, up to `ceiling_mb`."""
    vector_bytes = VECTOR_HEADER_BYTES + BYTES_PER_VALUE[recipe.vector_type] * dimension
    links = recipe.m * 2 + recipe.m // (recipe.m - 1)  # layer 0 has 2m; upper layers add m for one in m rows
    element = ELEMENT_TUPLE_BYTES + vector_bytes + LINE_POINTER_BYTES
    neighbours = NEIGHBOUR_TUPLE_BYTES + LINK_BYTES * links + LINE_POINTER_BYTES
    per_page = max(1, (PAGE_BYTES - PAGE_HEADER_BYTES) // (element + neighbours))
    pages = -(-rows // per_page)
    graph = rows * (MEMORY_ELEMENT_BYTES + vector_bytes + MEMORY_LINK_BYTES * links)
    heap_row = 24 + LINE_POINTER_BYTES + 8 + 8 + vector_bytes
    heap_pages = -(-rows // max(1, (PAGE_BYTES - PAGE_HEADER_BYTES) // heap_row))
    wanted = int(graph * 1.2) // (1 << 20) + 64
    memory = max(64, min(wanted, ceiling_mb))
    return BuildPlan(rows, dimension, pages * PAGE_BYTES, heap_pages * PAGE_BYTES, graph, memory, memory >= wanted)

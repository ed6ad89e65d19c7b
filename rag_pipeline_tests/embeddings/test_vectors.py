import numpy as np

from rag_pipeline.embeddings.vectors import check_vectors


def test_rows_that_must_not_be_stored_are_named_with_their_reason():
    rows = [[1.0, 0.0], [0.0, 0.0], [float("nan"), 1.0], [1.0], [float("inf"), 0.0], [-1e-20, 0.0]]
    check = check_vectors(rows, 2)
    assert check.good.tolist() == [True, False, False, False, False, True]
    assert check.reasons == (
        None,
        "zero vector",
        "NaN or infinity",
        "dimension 1, not 2",
        "NaN or infinity",
        None,
    )


def test_no_rows_are_no_failure():
    assert check_vectors(np.empty((0, 3), dtype=np.float32), 3).good.shape == (0,)

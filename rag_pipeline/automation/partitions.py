"""Partitions: models come and go, buckets are fixed. Nothing here touches the database."""

from collections.abc import Sequence

import dagster as dg

from rag_pipeline.settings import load_settings

RANGE_START = "dagster/asset_partition_range_start"
RANGE_END = "dagster/asset_partition_range_end"
WORK_TAG = "rag/work"
# What a sensor asked for by a run, however often it had to: see `decisions.decide_again`.
REQUEST_TAG = "rag/request"


def name_bucket(bucket: int) -> str:
    """A bucket as a partition key; zero-padded, so that keys sort like numbers."""
    return f"{bucket:02d}"


BUCKET_COUNT = load_settings().buckets
EMBEDDING_MODELS = dg.DynamicPartitionsDefinition(name="embedding_model")
BUCKETS = dg.StaticPartitionsDefinition([name_bucket(bucket) for bucket in range(BUCKET_COUNT)])
MODEL_BUCKETS = dg.MultiPartitionsDefinition({"embedding_model": EMBEDDING_MODELS, "bucket": BUCKETS})
BY_MODEL = dg.MultiToSingleDimensionPartitionMapping("embedding_model")


def model_bucket_key(slug: str, bucket: int) -> dg.MultiPartitionKey:
    """The partition of `embeddings` for one model and bucket."""
    return dg.MultiPartitionKey({"embedding_model": slug, "bucket": name_bucket(bucket)})


def range_tags(slug: str, first: int, last: int) -> dict[str, str]:
    """The tags that make one run do all buckets from `first` to `last` of a model."""
    return {RANGE_START: str(model_bucket_key(slug, first)), RANGE_END: str(model_bucket_key(slug, last))}


def group_by_model(keys: Sequence[str]) -> dict[str, list[int]]:
    """Partition keys of `embeddings` as buckets by model; a run's range may span several models."""
    grouped: dict[str, list[int]] = {}
    for key in keys:
        dimensions = MODEL_BUCKETS.get_partition_key_from_str(str(key)).keys_by_dimension
        grouped.setdefault(dimensions["embedding_model"], []).append(int(dimensions["bucket"]))
    return {slug: sorted(buckets) for slug, buckets in sorted(grouped.items())}

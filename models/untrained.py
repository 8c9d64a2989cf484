"""Large models as exported, with seeded random weights: the same work as the real ones, for timing.

Values do not change how long a matrix product takes. The weights are normal numbers of standard deviation 0.02, as the
models are initialised for training; normalization weights are near one.

    python -m models.untrained OUT.onnx [--graph NAME]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import onnx

from models import skeleton

DATA = Path(__file__).resolve().parent / "data"
GRAPHS = {
    "bert-base-eager__ts17": "TorchScript exporter, opset 17, attention written out",
    "bert-base__ts17": "TorchScript exporter, opset 17, scaled dot-product attention",
    "bert-base__dy20": "dynamo exporter, opset 20, scaled dot-product attention",
    "modernbert-base__dy20": "ModernBERT-base, dynamo exporter, opset 20",
    "deberta-v3-base__ts17": "DeBERTa-v3-base, TorchScript exporter, opset 17",
    "gpt2-cache__ts17": "GPT-2 (124M) with a cache of keys and values, TorchScript exporter, opset 17",
    "smollm-cache__dy20": "SmolLM-135M with a cache of keys and values, dynamo exporter, opset 20",
}


def load(graph: str = "bert-base-eager__ts17") -> onnx.ModelProto:
    """One of the exports, with weights; the same on every call.

    Args:
        graph: a key of `GRAPHS`.
    """
    return skeleton.fill(skeleton.read(DATA / f"{graph}.onnx.gz"))


def main() -> None:
    """Write one export, with its weights, to a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--graph", choices=GRAPHS, default="bert-base-eager__ts17")
    arguments = parser.parse_args()
    onnx.save(load(arguments.graph), arguments.out)
    print(f"{arguments.out}: {GRAPHS[arguments.graph]}, random weights")


if __name__ == "__main__":
    main()

"""Export an encoder of the Hugging Face library to ONNX, with either of PyTorch's exporters.

    python -m models.export NAME OUT.onnx [--exporter torchscript|dynamo] [--opset N] [--task TASK]
                                          [--attention sdpa|eager]

Needs the extra with torch (`pip install '.[export]'`) and the model's weights, by name from the hub or as a local
folder. Neither the tests nor the demo use this script.
"""

from __future__ import annotations

import argparse
import inspect
from pathlib import Path
from typing import Any

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
AXES = {0: "batch", 1: "sequence"}
TASKS = {
    "features": ("AutoModel", "last_hidden_state"),
    "sequence-classification": ("AutoModelForSequenceClassification", "logits"),
    "token-classification": ("AutoModelForTokenClassification", "logits"),
    "masked-language-model": ("AutoModelForMaskedLM", "logits"),
}


def example_inputs(torch: Any, names: list[str], vocabulary: int) -> dict[str, Any]:
    """One padded batch of two sequences to trace with: 11 and 7 tokens."""
    mask = torch.ones(2, 11, dtype=torch.int64)
    mask[1, 7:] = 0
    values = {
        "input_ids": torch.randint(1, vocabulary, (2, 11)) * mask,
        "attention_mask": mask,
        "token_type_ids": torch.zeros_like(mask),
    }
    return {name: values[name] for name in names}


def export(name: str, out: Path, exporter: str, opset: int, task: str, attention: str) -> None:
    """Load a model and write it as ONNX with dynamic batch and sequence axes.

    Args:
        name: a model of the hub, or a folder.
        out: the file to write.
        exporter: "torchscript" or "dynamo".
        opset: of the written file.
        task: a key of `TASKS`.
        attention: "sdpa" or "eager".
    """
    import torch
    import transformers

    loader, output = TASKS[task]
    model = getattr(transformers, loader).from_pretrained(name, attn_implementation=attention).eval()
    accepted = inspect.signature(model.forward).parameters
    names = [name for name in INPUTS if name in accepted]

    class OneOutput(torch.nn.Module):  # type: ignore[misc]
        """The model with tensors in and one tensor out, which is what an exporter wants."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *tensors: Any) -> Any:
            return getattr(self.model(**dict(zip(names, tensors, strict=True))), output)

    inputs = example_inputs(torch, names, model.config.vocab_size)
    common = {"input_names": names, "output_names": [output], "opset_version": opset}
    if exporter == "dynamo":
        dims = tuple({0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC} for _ in names)
        torch.onnx.export(OneOutput(), tuple(inputs.values()), str(out), dynamo=True, dynamic_shapes=(dims,), **common)
    else:
        axes = dict.fromkeys([*names, output], AXES)
        if task == "sequence-classification":
            axes[output] = {0: "batch"}
        torch.onnx.export(OneOutput(), tuple(inputs.values()), str(out), dynamo=False, dynamic_axes=axes, **common)


def main() -> None:
    """Read the command line and export."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("out", type=Path)
    parser.add_argument("--exporter", choices=("torchscript", "dynamo"), default="dynamo")
    parser.add_argument("--opset", type=int, default=18)
    parser.add_argument("--task", choices=TASKS, default="features")
    parser.add_argument("--attention", choices=("sdpa", "eager"), default="sdpa")
    arguments = parser.parse_args()
    try:
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as error:
        parser.exit(2, f"exporting needs {error.name}: pip install '.[export]'\n")
    export(**vars(arguments))
    print(f"{arguments.out}: {arguments.name}, {arguments.exporter} exporter, opset {arguments.opset}")


if __name__ == "__main__":
    main()

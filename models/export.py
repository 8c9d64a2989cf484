"""Export a model of the Hugging Face library to ONNX, with either of PyTorch's exporters.

    python -m models.export NAME OUT.onnx [--exporter torchscript|dynamo] [--opset N] [--task TASK]
                                          [--attention sdpa|eager]

Encoders read a padded batch. Decoders (`--task text-generation`) also read and write the keys and values of earlier
tokens; `exportable.py` has their names. Needs the extra with torch (`pip install '.[export]'`) and the model's weights,
by name from the hub or as a local folder. Neither the tests nor the demo use this script.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from models import exportable

GENERATION = "text-generation"
TASKS = {
    "features": ("AutoModel", "last_hidden_state", exportable.AXES),
    "sequence-classification": ("AutoModelForSequenceClassification", "logits", {0: "batch"}),
    "token-classification": ("AutoModelForTokenClassification", "logits", exportable.AXES),
    "masked-language-model": ("AutoModelForMaskedLM", "logits", exportable.AXES),
    GENERATION: ("AutoModelForCausalLM", "logits", exportable.AXES),
}


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

    loader, output, axes = TASKS[task]
    model = getattr(transformers, loader).from_pretrained(name, attn_implementation=attention).float().eval()
    what = exportable.decoder(torch, model) if task == GENERATION else exportable.encoder(torch, model, output, axes)
    inputs = tuple(what.inputs.values())
    common = {"input_names": list(what.inputs), "output_names": what.outputs, "opset_version": opset}
    if exporter == "dynamo":
        dims = tuple(dict.fromkeys(what.axes[each], torch.export.Dim.DYNAMIC) for each in what.inputs)
        torch.onnx.export(what.module, inputs, str(out), dynamo=True, dynamic_shapes=(dims,), **common)
    else:
        torch.onnx.export(what.module, inputs, str(out), dynamo=False, dynamic_axes=what.axes, **common)


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

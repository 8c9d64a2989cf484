from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest

from tests.corpus import graphs

torch = pytest.importorskip("torch", reason="PyTorch is not installed")


@pytest.mark.parametrize("name", ["bert-tiny__ts17", "bert-tiny-eager__ts17"])
def test_it_computes_what_the_exported_graph_does(name: str) -> None:
    from benchmarks.torch_bert import Bert, weights

    found = [item for item in graphs() if item.name == name]
    if not found:
        pytest.skip(f"{name} is not in the corpus")
    proto, inputs = found[0].load(), found[0].inputs
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = session.run(None, inputs)[0]
    arrays = {key: torch.from_numpy(value) for key, value in inputs.items()}
    real = inputs["attention_mask"] != 0
    width = weights(proto)["embeddings.LayerNorm.weight"].shape[0]
    closest = np.inf
    for heads in (count for count in (1, 2, 4, 8) if width % count == 0):  # the file does not say how many
        with torch.no_grad():
            module = Bert(weights(proto), heads)
            actual = module(arrays["input_ids"], arrays["token_type_ids"], arrays["attention_mask"]).numpy()
        closest = min(closest, float(np.abs(actual - expected)[real].max()))
    assert closest < 1e-5

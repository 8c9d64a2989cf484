from turbo_onnx.custom_ops import SPECS, header


def test_the_signatures_of_the_library_are_those_of_the_specifications():
    assert header.PATH.read_text() == header.header(), "run: python -m turbo_onnx.custom_ops.header"


def test_an_operator_without_options_has_one_name():
    names = {spec.name: header.names(spec) for spec in SPECS}
    assert names["RestorePadding"] == 1
    assert names["RemovePadding"] == names["BiasGelu"] == 2
    assert names["SkipLayerNormalization"] == 6

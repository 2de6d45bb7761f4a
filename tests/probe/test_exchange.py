"""Steering vectors in llama.cpp's format, as it reads them."""

import gguf
import numpy as np
import pytest
import torch

from sarsteer_lab.probe.exchange import export_gguf
from sarsteer_lab.vectors import SteeringVectors


def gaussian(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_gguf_is_laid_out_as_llama_cpp_reads_it(tmp_path):
    """The loader's rules: 1-D F32 tensors direction.N with N >= 1, one width."""
    vectors = SteeringVectors(gaussian(3, 32), {}, (1, 2, 5))
    export_gguf(vectors, tmp_path / "v.gguf", model_hint="llama")
    reader = gguf.GGUFReader(tmp_path / "v.gguf")
    assert reader.get_field("general.architecture").contents() == "controlvector"
    assert reader.get_field("controlvector.model_hint").contents() == "llama"
    assert reader.get_field("controlvector.layer_count").contents() == 3
    assert [tensor.name for tensor in reader.tensors] == [
        "direction.1",
        "direction.2",
        "direction.5",
    ]
    for tensor, values in zip(reader.tensors, vectors.values, strict=True):
        assert tensor.tensor_type == gguf.GGMLQuantizationType.F32 and tensor.shape.tolist() == [32]
        np.testing.assert_array_equal(tensor.data, values)


def test_gguf_has_no_place_for_layer_0(tmp_path):
    with pytest.raises(ValueError, match=r"only\(\[1, 2\]\)"):
        export_gguf(SteeringVectors(gaussian(3, 8)), tmp_path / "v.gguf", model_hint="llama")
    assert not (tmp_path / "v.gguf").exists()
    values = gaussian(3, 8)
    values[0] = 0
    export_gguf(SteeringVectors(values), tmp_path / "v.gguf", model_hint="llama")
    reader = gguf.GGUFReader(tmp_path / "v.gguf")
    assert [tensor.name for tensor in reader.tensors] == ["direction.1", "direction.2"]


def test_writing_makes_the_folder_or_names_the_path(tmp_path):
    vectors = SteeringVectors(gaussian(2, 3), {}, (1, 2))
    export_gguf(vectors, tmp_path / "no" / "such" / "v.gguf", model_hint="llama")
    assert [path.name for path in (tmp_path / "no" / "such").iterdir()] == ["v.gguf"]
    for bad in (tmp_path / "no", tmp_path / "no" / "such" / "v.gguf" / "w.gguf"):
        with pytest.raises(OSError) as raised:
            export_gguf(vectors, bad, model_hint="llama")
        assert str(bad) in str(raised.value) and ".tmp" not in str(raised.value)

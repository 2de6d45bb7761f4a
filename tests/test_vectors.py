"""The algebra of steering vectors, their files, and the formats of other packages."""

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.torch import save_file

from sarsteer_lab.vectors import SteeringVectors

some_values = hnp.arrays(np.float32, (3, 5), elements=st.floats(-100, 100, width=32)).map(torch.from_numpy)


def gaussian(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=30, deadline=None)
@given(a=some_values, b=some_values, factor=st.floats(-10, 10))
def test_algebra_is_that_of_the_values(a, b, factor):
    first, second = SteeringVectors(a), SteeringVectors(b)
    assert torch.equal((first + second).values, a + b)
    assert torch.equal((first - second).values, a - b)
    assert torch.equal((first * factor).values, a * factor)
    assert torch.equal((factor * first).values, a * factor)
    assert torch.equal((-first).values, -a)
    torch.testing.assert_close((first / 4).values, a / 4)
    torch.testing.assert_close(first.norm(), a.norm(dim=1))


def test_layers_that_one_side_lacks_count_as_zero():
    first = SteeringVectors(torch.ones(2, 3), {"name": "a"}, (1, 4))
    second = SteeringVectors(2 * torch.ones(2, 3), {"name": "b"}, (4, 0))
    total = first + second
    assert total.layers == (0, 1, 4)
    assert total.values[:, 0].tolist() == [2, 1, 3]
    assert total.provenance == {"sum_of": [{"name": "a"}, {"name": "b"}]}
    assert total[4].tolist() == [3, 3, 3]
    assert total.only([4, 1]).layers == (4, 1)
    with pytest.raises(KeyError, match="layer 2"):
        total[2]


def test_values_are_frozen_float32_copies():
    values = torch.ones(2, 3, dtype=torch.bfloat16)
    vectors = SteeringVectors(values)
    values += 1
    assert vectors.values.dtype == torch.float32 and vectors.values.eq(1).all()


@pytest.mark.parametrize(
    ("values", "layers"),
    [
        (torch.ones(3), ()),
        (torch.ones(0, 3), ()),
        (torch.full((2, 3), float("nan")), ()),
        (torch.ones(2, 3), (1,)),
        (torch.ones(2, 3), (1, 1)),
        (torch.ones(2, 3), (-1, 1)),
    ],
)
def test_what_is_not_a_vector_per_layer_is_refused(values, layers):
    with pytest.raises(ValueError, match="have to be finite|distinct layers"):
        SteeringVectors(values, layers=layers)


def test_rescaled_vectors_keep_direction_and_take_length():
    short, long = SteeringVectors(gaussian(3, 6)), SteeringVectors(9 * gaussian(3, 6, seed=1))
    control = short.rescaled_to(long)
    torch.testing.assert_close(control.norm(), long.norm())
    torch.testing.assert_close(control.cosine(short), torch.ones(3))
    assert short.cosine(-short).tolist() == pytest.approx([-1, -1, -1])
    nothing = SteeringVectors(torch.zeros(3, 6))
    assert nothing.rescaled_to(nothing).norm().eq(0).all()
    with pytest.raises(ValueError, match="no direction"):
        nothing.rescaled_to(long)
    with pytest.raises(ValueError, match="layer by layer"):
        short.cosine(long.only([0, 1]))


def test_files_keep_everything(tmp_path):
    provenance = {"model": "pocket", "k": 10, "lambda": 1.0, "prompts": ["a", "b"], "nested": {"seed": None}}
    vectors = SteeringVectors(gaussian(3, 7), provenance, (5, 2, 9))
    vectors.save(tmp_path / "v.safetensors")
    again = SteeringVectors.load(tmp_path / "v.safetensors")
    assert torch.equal(again.values, vectors.values)
    assert (again.layers, again.provenance) == ((5, 2, 9), provenance)


def test_other_files_are_named(tmp_path):
    save_file({"x": torch.ones(2)}, tmp_path / "other.safetensors")
    (tmp_path / "text.safetensors").write_text("not a tensor in sight")
    for load in (SteeringVectors.load, SteeringVectors.import_steering_vectors, SteeringVectors.import_gguf):
        for name in ("other.safetensors", "text.safetensors", "missing.safetensors"):
            with pytest.raises(ValueError, match=name):
                load(tmp_path / name)


def test_gguf_is_laid_out_as_llama_cpp_reads_it(tmp_path):
    """The loader's rules: 1-D F32 tensors direction.N with N >= 1, one width."""
    vectors = SteeringVectors(gaussian(3, 32), {}, (1, 2, 5))
    vectors.export_gguf(tmp_path / "v.gguf", model_hint="llama")
    reader = gguf.GGUFReader(tmp_path / "v.gguf")
    assert reader.get_field("general.architecture").contents() == "controlvector"
    assert reader.get_field("controlvector.model_hint").contents() == "llama"
    assert reader.get_field("controlvector.layer_count").contents() == 3
    assert [tensor.name for tensor in reader.tensors] == ["direction.1", "direction.2", "direction.5"]
    for tensor, values in zip(reader.tensors, vectors.values, strict=True):
        assert tensor.tensor_type == gguf.GGMLQuantizationType.F32 and tensor.shape.tolist() == [32]
        np.testing.assert_array_equal(tensor.data, values)
    again = SteeringVectors.import_gguf(tmp_path / "v.gguf")
    assert torch.equal(again.values, vectors.values) and again.layers == vectors.layers
    assert again.provenance["model_hint"] == "llama"


def test_gguf_has_no_place_for_layer_0(tmp_path):
    with pytest.raises(ValueError, match=r"only\(\[1, 2\]\)"):
        SteeringVectors(gaussian(3, 8)).export_gguf(tmp_path / "v.gguf", model_hint="llama")
    assert not (tmp_path / "v.gguf").exists()
    values = gaussian(3, 8)
    values[0] = 0
    SteeringVectors(values).export_gguf(tmp_path / "v.gguf", model_hint="llama")
    assert SteeringVectors.import_gguf(tmp_path / "v.gguf").layers == (1, 2)


def test_gguf_written_by_repengs_calls_is_read(tmp_path):
    """repeng numbers layers like this package and writes them from the last to the first."""
    writer = gguf.GGUFWriter(tmp_path / "r.gguf", "controlvector")
    writer.add_string("controlvector.model_hint", "mistral")
    writer.add_uint32("controlvector.layer_count", 2)
    for layer in (2, 1):
        writer.add_tensor(f"direction.{layer}", np.full(4, layer, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    vectors = SteeringVectors.import_gguf(tmp_path / "r.gguf")
    assert vectors.layers == (1, 2) and vectors.values[:, 0].tolist() == [1, 2]


def test_the_steering_vectors_packages_fields(tmp_path):
    vectors = SteeringVectors(gaussian(3, 4), {}, (0, 3, 7))
    fields = vectors.layer_activations()
    assert list(fields) == [0, 3, 7] and torch.equal(fields[3], vectors[3])
    again = SteeringVectors.from_layer_activations({7: fields[7], 0: fields[0], 3: fields[3]})
    assert torch.equal(again.values, vectors.values) and again.layers == vectors.layers
    vectors.export_steering_vectors(tmp_path / "v.safetensors")
    again = SteeringVectors.import_steering_vectors(tmp_path / "v.safetensors")
    assert torch.equal(again.values, vectors.values) and again.layers == vectors.layers


def test_provenance_that_is_not_json_is_refused_before_a_file_is_written(tmp_path):
    with pytest.raises(TypeError):
        SteeringVectors(torch.ones(1, 2), {"model": object()}).save(tmp_path / "v.safetensors")
    assert not (tmp_path / "v.safetensors").exists()

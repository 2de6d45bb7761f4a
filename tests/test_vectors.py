"""The algebra of steering vectors, and their files: the lab's own and llama.cpp's."""

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.torch import save_file

from sarsteer_lab.vectors import SteeringVectors

some_values = hnp.arrays(np.float32, (3, 5), elements=st.floats(-100, 100, width=32)).map(
    torch.from_numpy
)


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
        (torch.ones(2, 0), ()),
        (torch.full((2, 3), float("nan")), ()),
        (torch.full((2, 3), 1e39, dtype=torch.float64), ()),
        (torch.ones(2, 3, dtype=torch.int64), ()),
        (torch.ones(2, 3, dtype=torch.complex64), ()),
        (torch.ones(2, 3), (1,)),
        (torch.ones(2, 3), (1, 1)),
        (torch.ones(2, 3), (-1, 1)),
        (torch.ones(2, 3), (0, 1.5)),
        (torch.ones(2, 3), (False, True)),
    ],
)
def test_what_is_not_a_vector_per_layer_is_refused(values, layers):
    with pytest.raises(ValueError, match="have to be f|distinct layers"):
        SteeringVectors(values, layers=layers)


def test_rescaled_vectors_keep_direction_and_take_length():
    short, long = SteeringVectors(gaussian(3, 6)), SteeringVectors(9 * gaussian(3, 6, seed=1))
    control = short.rescaled_to(long)
    torch.testing.assert_close(control.norm(), long.norm())
    cosine = torch.nn.functional.cosine_similarity(control.values, short.values, dim=-1)
    torch.testing.assert_close(cosine, torch.ones(3))
    nothing = SteeringVectors(torch.zeros(3, 6))
    assert nothing.rescaled_to(nothing).norm().eq(0).all()
    with pytest.raises(ValueError, match="no direction"):
        nothing.rescaled_to(long)
    with pytest.raises(ValueError, match="layer by layer"):
        short.rescaled_to(long.only([0, 1]))


def test_files_keep_everything(tmp_path):
    provenance = {
        "model": "pocket",
        "k": 10,
        "lambda": 1.0,
        "prompts": ["a", "b"],
        "nested": {"seed": None},
    }
    vectors = SteeringVectors(gaussian(3, 7), provenance, (5, 2, 9))
    vectors.save(tmp_path / "v.safetensors")
    again = SteeringVectors.load(tmp_path / "v.safetensors")
    assert torch.equal(again.values, vectors.values)
    assert (again.layers, again.provenance) == ((5, 2, 9), provenance)


def test_numpy_layers_are_kept_as_plain_numbers(tmp_path):
    SteeringVectors(gaussian(2, 3), {}, tuple(np.array([4, 1]))).save(tmp_path / "v.safetensors")
    assert SteeringVectors.load(tmp_path / "v.safetensors").layers == (4, 1)


def test_writing_makes_the_folder_or_names_the_path(tmp_path):
    vectors = SteeringVectors(gaussian(2, 3), {}, (1, 2))
    vectors.save(tmp_path / "no" / "such" / "v.file")
    assert [path.name for path in (tmp_path / "no" / "such").iterdir()] == ["v.file"]
    for bad in (tmp_path / "no", tmp_path / "no" / "such" / "v.file" / "w.file"):
        with pytest.raises(OSError) as raised:
            vectors.save(bad)
        assert str(bad) in str(raised.value) and ".tmp" not in str(raised.value)


def test_other_files_are_named(tmp_path):
    save_file({"x": torch.ones(2)}, tmp_path / "other.safetensors")
    (tmp_path / "text.safetensors").write_text("not a tensor in sight")
    (tmp_path / "folder.safetensors").mkdir()
    for name in ("other", "text", "folder", "missing"):
        with pytest.raises(ValueError, match=f"{name}.safetensors"):
            SteeringVectors.load(tmp_path / f"{name}.safetensors")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A file's bytes, and a path to write changed ones to."""
    path = tmp_path_factory.mktemp("written") / "v.safetensors"
    SteeringVectors(gaussian(2, 3), {"model": "pocket", "k": 10}, (5, 2)).save(path)
    return path.read_bytes(), path.with_name("changed.safetensors")


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_one_flipped_bit_anywhere_is_refused(written, data):
    content, path = written
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    path.write_bytes(changed)
    with pytest.raises(ValueError, match=path.name):
        SteeringVectors.load(path)


@settings(max_examples=100, deadline=None)
@given(data=st.data(), noise=st.binary(max_size=20))
def test_noise_in_a_file_is_refused(written, data, noise):
    content, path = written
    start, end = sorted(data.draw(st.integers(0, len(content))) for _ in range(2))
    changed = content[:start] + noise + content[end:]
    path.write_bytes(changed)
    if changed == content:
        SteeringVectors.load(path)
    else:
        with pytest.raises(ValueError, match=path.name):
            SteeringVectors.load(path)


OLD = {"format": "sarsteer-lab steering vectors 1", "layers": "[3, 1]", "provenance": '{"k": 10}'}
DEEP = "[" * 100_000 + "]" * 100_000


def test_files_from_before_the_checksum_are_read(tmp_path):
    values = gaussian(2, 3)
    save_file({"values": values}, tmp_path / "v.safetensors", OLD)
    vectors = SteeringVectors.load(tmp_path / "v.safetensors")
    assert torch.equal(vectors.values, values) and (vectors.layers, vectors.provenance) == (
        (3, 1),
        {"k": 10},
    )


@pytest.mark.parametrize(
    "change",
    [
        *({name: None} for name in OLD),
        {"format": "sarsteer-lab steering vectors 9"},
        *({"provenance": text} for text in ("[]", "null", "{", '{"a": ' + DEEP + "}")),
        *(
            {"layers": text}
            for text in ("[]", "3", "null", "{}", '"31"', "", DEEP, "[[3], [1]]", '["3", "1"]')
        ),
        *(
            {"layers": text}
            for text in ("[1]", "[1, 1]", "[-1, 1]", "[0, 1.5]", "[0.0, 1.0]", "[false, true]")
        ),
        {"layers": "[NaN, 1]"},
        {"layers": "[1" + "0" * 5000 + ", 1]"},
    ],
    ids=str,
)
def test_malformed_metadata_is_named(tmp_path, change):
    metadata = {name: text for name, text in (OLD | change).items() if text is not None}
    save_file({"values": torch.ones(2, 3)}, tmp_path / "v.safetensors", metadata)
    with pytest.raises(ValueError, match=r"v\.safetensors"):
        SteeringVectors.load(tmp_path / "v.safetensors")


MALFORMED = [
    torch.full((2, 3), 1e300, dtype=torch.float64),
    torch.full((2, 3), float("inf")),
    torch.ones(2, 3, dtype=torch.complex64),
    torch.ones(2, 3, dtype=torch.int32),
    torch.ones(2, 3, dtype=torch.bool),
    torch.ones(2, 3, 1),
    torch.ones(2, 0),
]


@pytest.mark.parametrize(
    "tensors",
    [
        *(
            {"values": values}
            for values in (*MALFORMED, torch.ones(2), torch.ones(()), torch.ones(3, 3))
        ),
        {"value": torch.ones(2, 3)},
        {"values": torch.ones(2, 3), "more": torch.ones(1)},
        {},
    ],
    ids=repr,
)
def test_malformed_tensors_are_named(tmp_path, tensors):
    save_file(tensors, tmp_path / "v.safetensors", OLD)
    with pytest.raises(ValueError, match=r"v\.safetensors"):
        SteeringVectors.load(tmp_path / "v.safetensors")


def test_provenance_that_is_not_json_is_refused_before_a_file_is_written(tmp_path):
    with pytest.raises(TypeError):
        SteeringVectors(torch.ones(1, 2), {"model": object()}).save(tmp_path / "v.safetensors")
    assert not (tmp_path / "v.safetensors").exists()


def test_gguf_is_laid_out_as_llama_cpp_reads_it(tmp_path):
    """The loader's rules: 1-D F32 tensors direction.N with N >= 1, one width."""
    vectors = SteeringVectors(gaussian(3, 32), {}, (1, 2, 5))
    vectors.export_gguf(tmp_path / "v.gguf", model_hint="llama")
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
        SteeringVectors(gaussian(3, 8)).export_gguf(tmp_path / "v.gguf", model_hint="llama")
    assert not (tmp_path / "v.gguf").exists()
    values = gaussian(3, 8)
    values[0] = 0
    SteeringVectors(values).export_gguf(tmp_path / "v.gguf", model_hint="llama")
    reader = gguf.GGUFReader(tmp_path / "v.gguf")
    assert [tensor.name for tensor in reader.tensors] == ["direction.1", "direction.2"]


def test_exporting_makes_the_folder_or_names_the_path(tmp_path):
    vectors = SteeringVectors(gaussian(2, 3), {}, (1, 2))
    vectors.export_gguf(tmp_path / "no" / "such" / "v.gguf", model_hint="llama")
    assert [path.name for path in (tmp_path / "no" / "such").iterdir()] == ["v.gguf"]
    for bad in (tmp_path / "no", tmp_path / "no" / "such" / "v.gguf" / "w.gguf"):
        with pytest.raises(OSError) as raised:
            vectors.export_gguf(bad, model_hint="llama")
        assert str(bad) in str(raised.value) and ".tmp" not in str(raised.value)

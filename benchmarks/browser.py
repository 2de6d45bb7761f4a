"""The pocket model for a browser: `python -m benchmarks.browser FOLDER` (docs/in_the_browser.md).

Two graphs for onnxruntime, with what steering needs: vectors go in, states come out. They are
written in float32, and the decoder as integers of 8 bits and in 4 bits a weight. It needs onnx,
onnxruntime and onnxscript besides the project's own packages.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sarsteer_lab.lalm import LALM
from sarsteer_lab.loading import load_lalm

INPUTS = ["ids", "heard", "past", "vectors"]
OUTPUTS = ["logits", "present", "states"]


class Ears(nn.Module):
    """From samples to what the decoder hears: log-mel features, audio tower, projector."""

    waves: Tensor
    mel: Tensor

    def __init__(self, lalm: LALM) -> None:
        super().__init__()
        self.tower = lalm.model.model.audio_tower
        self.projector = lalm.model.model.multi_modal_projector
        self.extractor = lalm.processor.feature_extractor
        n_fft = self.extractor.n_fft
        turns = torch.outer(torch.arange(n_fft // 2 + 1), torch.arange(n_fft)) / n_fft
        angles = 2 * torch.pi * turns
        waves = torch.cat([angles.cos(), angles.sin()]) * torch.hann_window(n_fft)
        self.register_buffer("waves", waves[:, None])
        self.register_buffer("mel", torch.tensor(self.extractor.mel_filters.T).float())

    def forward(
        self, samples: Float[Tensor, "samples"], length: Int[Tensor, "1"]
    ) -> Float[Tensor, "audio d_model"]:
        """All positions of the window; behind the first `length` samples is silence."""
        hop, reach = self.extractor.hop_length, self.extractor.n_fft // 2
        padded = nn.functional.pad(samples[None, None], (reach, reach), mode="reflect")
        parts = nn.functional.conv1d(padded, self.waves, stride=hop)[0, :, :-1]
        cosines, sines = parts.chunk(2)
        power = cosines.square() + sines.square()
        loudness = (self.mel @ power).clamp(min=1e-10).log10()
        features = (torch.maximum(loudness, loudness.max() - 8) + 4) / 4  # mel frame
        frames = (length + hop - 1) // hop
        positions = self.tower.max_source_positions
        is_silent = torch.arange(positions) >= (frames - 1) // 2 + 1
        mask = torch.where(is_silent, -1e9, 0.0).expand(1, 1, positions, positions)
        heard = self.tower(features[None], attention_mask=mask).last_hidden_state
        return self.projector(heard)[0]


class Decoder(nn.Module):
    """The language model for one prompt, steered as `steering.steer` does it."""

    table: Tensor
    frequencies: Tensor

    def __init__(self, lalm: LALM) -> None:
        super().__init__()
        self.layers, self.norm = lalm.layers, lalm.decoder.norm
        self.audio_token_id = lalm.audio_token_id
        _, _, self.shared, _, self.width = past_shape(lalm, 0)
        self.together = lalm.text_config.num_attention_heads // self.shared
        self.register_buffer("frequencies", lalm.decoder.rotary_emb.inv_freq)
        # Embeddings and head of the pocket model hold the same numbers: once in the file, and so
        # that in WebAssembly a vector times this matrix is fast (d_model vocab).
        self.register_buffer("table", lalm.core.lm_head.weight.detach().T.contiguous())

    def forward(
        self,
        ids: Int[Tensor, "position"],
        heard: Float[Tensor, "audio d_model"],
        past: Float[Tensor, "layer 2 head past width"],
        vectors: Float[Tensor, "layer d_model"],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits at the last position (vocab), keys and values so far, and the last position's
        states after each layer (layer d_model), to which `vectors` have been added.
        """
        is_audio = ids == self.audio_token_id
        place = (is_audio.long().cumsum(0) - 1).clamp(min=0)
        stream = torch.where(is_audio[:, None], heard[place], self.table[:, ids].T)
        earlier = past.shape[3]
        positions = torch.arange(ids.shape[0]) + earlier
        angles = (positions[:, None] * self.frequencies).repeat(1, 2)
        is_seen = torch.arange(ids.shape[0] + earlier)[None] <= positions[:, None]
        mask = torch.where(is_seen, 0.0, -1e9)
        states, present = [], []
        for number, layer in enumerate(self.layers):
            normed = layer.input_layernorm(stream)
            mixed, cache = self.attend(layer.self_attn, normed, angles, mask, past[number])
            stream = stream + mixed
            stream = stream + layer.mlp(layer.post_attention_layernorm(stream))
            last = stream[-1:] + vectors[number]
            stream = torch.cat([stream[:-1], last])
            states.append(last)
            present.append(cache)
        logits = self.norm(last) @ self.table
        return logits[0], torch.stack(present), torch.cat(states)

    def attend(
        self, attention: Any, normed: Tensor, angles: Tensor, mask: Tensor, past: Tensor
    ) -> tuple[Float[Tensor, "position d_model"], Float[Tensor, "2 head all width"]]:
        """Grouped-query attention of a layer; its keys and values behind the earlier ones."""
        query = self.rotated(self.heads(attention.q_proj(normed)), angles)
        key = self.rotated(self.heads(attention.k_proj(normed)), angles)
        value = self.heads(attention.v_proj(normed))
        cache = torch.cat([past, torch.stack([key, value])], dim=2)
        keys, values = cache[:, :, None]
        grouped = query.reshape(self.shared, self.together, -1, self.width)
        scores = grouped @ keys.transpose(2, 3) / self.width**0.5
        mixed = (scores + mask).softmax(-1) @ values
        side_by_side = mixed.flatten(0, 1).transpose(0, 1).flatten(1)
        return attention.o_proj(side_by_side), cache

    def heads(self, joined: Float[Tensor, "position all"]) -> Float[Tensor, "head position width"]:
        return joined.unflatten(1, (-1, self.width)).transpose(0, 1)

    @staticmethod
    def rotated(heads: Tensor, angles: Float[Tensor, "position width"]) -> Tensor:
        """Rotary position embedding (Su et al. 2021), its halves apart as Llama has them."""
        first, second = heads.chunk(2, dim=-1)
        return heads * angles.cos() + torch.cat([-second, first], dim=-1) * angles.sin()


@torch.no_grad()
def export(lalm: LALM, folder: Path) -> None:
    """Write the graphs in float32, and the smaller ones that are made of them."""
    options: dict[str, Any] = {"dynamo": False, "opset_version": 17}
    window = torch.randn(lalm.processor.feature_extractor.n_samples)
    names = {"input_names": ["samples", "length"], "output_names": ["heard"]}
    ears = folder / "ears-float32.onnx"
    torch.onnx.export(Ears(lalm), (window, torch.tensor([16_000])), ears, **names, **options)
    halve(ears, folder / "ears-float16.onnx")
    decoder = Decoder(lalm)
    past = torch.zeros(past_shape(lalm, 5))
    vectors = torch.zeros(lalm.n_layers, lalm.d_model)
    prompt = (torch.tensor([1, 2, 3]), torch.zeros(4, lalm.d_model), past, vectors)
    axes = {"ids": {0: "position"}, "heard": {0: "audio"}, "past": {3: "past"}}
    options |= {"input_names": INPUTS, "output_names": OUTPUTS, "dynamic_axes": axes}
    torch.onnx.export(decoder, prompt, folder / "decoder-float32.onnx", **options)
    quantise(folder)


def keep_small(graph: Any, weight: Any, small: np.ndarray, scale: np.ndarray) -> None:
    """Keep a weight as `small`: float32 times `scale` once more when a session is made."""
    from onnx import TensorProto, helper, numpy_helper

    parts = {f"{weight.name}.small": small, f"{weight.name}.scale": scale}
    graph.initializer.remove(weight)
    graph.initializer.extend(numpy_helper.from_array(parts[name], name) for name in parts)
    name, cast = weight.name, f"{weight.name}.cast"
    graph.node.insert(0, helper.make_node("Mul", [cast, f"{name}.scale"], [name]))
    small_first = helper.make_node("Cast", [f"{name}.small"], [cast], to=TensorProto.FLOAT)
    graph.node.insert(0, small_first)


def halve(source: Path, target: Path) -> None:
    """All large weights in float16."""
    import onnx

    model = onnx.load(source)
    for weight in list(model.graph.initializer):
        values = onnx.numpy_helper.to_array(weight)
        if values.dtype == np.float32 and values.size > 1000:
            keep_small(model.graph, weight, values.astype(np.float16), np.ones(1, np.float32))
    onnx.save(model, target)


def quantise(folder: Path) -> None:
    """The table in 8 bits, a scale for each token; matrices in 8 bits, and in blocks of 4 bits."""
    import onnx
    from onnxruntime.quantization import quantize_dynamic
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    model = onnx.load(folder / "decoder-float32.onnx")
    [table] = [weight for weight in model.graph.initializer if weight.name == "table"]
    values = onnx.numpy_helper.to_array(table)
    scale = np.abs(values).max(0, keepdims=True) / 127
    keep_small(model.graph, table, np.round(values / scale).astype(np.int8), scale)
    small_table = folder / "small_table.onnx"
    onnx.save(model, small_table)
    options = {"op_types_to_quantize": ["MatMul"], "per_channel": True}
    quantize_dynamic(small_table, folder / "decoder-int8.onnx", **options)
    small_table.unlink()
    blocks = {"bits": 4, "block_size": 32, "is_symmetric": False, "accuracy_level": 4}
    quantizer = MatMulNBitsQuantizer(model, **blocks)
    quantizer.process()
    onnx.save(quantizer.model.model, folder / "decoder-4bits.onnx")


def past_shape(lalm: LALM, positions: int) -> tuple[int, ...]:
    """Of keys and values of so many positions."""
    width = lalm.layers[0].self_attn.head_dim
    return (lalm.n_layers, 2, lalm.text_config.num_key_value_heads, positions, width)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="The pocket model for a browser")
    parser.add_argument("folder", type=Path, help="where the graphs go")
    folder = parser.parse_args(argv).folder
    folder.mkdir(parents=True, exist_ok=True)
    export(load_lalm("pocket"), folder)
    for graph in sorted(folder.glob("*-*.onnx")):
        print(f"{graph.name:25} {graph.stat().st_size / 1e6:6.1f} MB")


if __name__ == "__main__":
    main()

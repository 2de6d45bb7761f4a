"""TransformerLens adapters for audio families that it does not bridge itself.

`pyproject.toml` declares them in the entry-point group `transformer_lens.architectures`, so
TransformerLens finds them wherever this package is installed. Each is the adapter of the family's text
decoder, moved to where the decoder lies; audio tower and projector are wrapped whole (input and output
hooks), and the model's own forward puts the audio in.

Left out: Qwen3-Omni, whose experts and position embeddings would need components of their own.
"""

from typing import Any

from transformer_lens.model_bridge.generalized_components import AttentionBridge, LinearBridge
from transformer_lens.model_bridge.generalized_components.base import GeneralizedComponent
from transformer_lens.model_bridge.supported_architectures.granite import GraniteArchitectureAdapter
from transformer_lens.model_bridge.supported_architectures.llama import LlamaArchitectureAdapter
from transformer_lens.model_bridge.supported_architectures.phi3 import Phi3ArchitectureAdapter
from transformer_lens.model_bridge.supported_architectures.qwen2 import Qwen2ArchitectureAdapter


def _give_ears(
    adapter: Any, tower: str, projector: str | None, decoder: str = "model.language_model."
) -> None:
    """Move a text adapter's components below `decoder` and add audio tower and projector."""
    adapter.cfg.is_multimodal = True
    if decoder != "model.":
        adapter._reprefix_components("model.", decoder)
    adapter.component_mapping["audio_encoder"] = GeneralizedComponent(name=tower)
    if projector is not None:
        adapter.component_mapping["audio_projector"] = GeneralizedComponent(name=projector)


class VoxtralAdapter(LlamaArchitectureAdapter):
    """`VoxtralForConditionalGeneration`: a Llama decoder."""

    def __init__(self, cfg: Any) -> None:
        super().__init__(cfg)
        _give_ears(self, "model.audio_tower", "model.multi_modal_projector")


class GraniteSpeechAdapter(GraniteArchitectureAdapter):
    """`GraniteSpeechForConditionalGeneration`: a Granite decoder with its scaled residuals."""

    def __init__(self, cfg: Any) -> None:
        super().__init__(cfg)
        _give_ears(self, "model.encoder", "model.projector")


class Qwen2_5OmniThinkerAdapter(Qwen2ArchitectureAdapter):
    """`Qwen2_5OmniThinkerForConditionalGeneration`: a Qwen2 decoder with three-part rotary positions.

    These live in the model's own attention, which is kept; the tower projects within itself.
    """

    def __init__(self, cfg: Any) -> None:
        super().__init__(cfg)
        assert self.component_mapping is not None
        del self.component_mapping["rotary_emb"]
        self.component_mapping["blocks"].submodules["attn"] = AttentionBridge(
            name="self_attn",
            config=self.cfg,
            submodules={
                name[0]: LinearBridge(name=name) for name in ("q_proj", "k_proj", "v_proj", "o_proj")
            },
            maintain_native_attention=True,
            requires_attention_mask=True,
        )
        _give_ears(self, "model.audio_tower", None)


class Phi4MultimodalAdapter(Phi3ArchitectureAdapter):
    """`Phi4MultimodalForCausalLM`: a Phi-3 decoder whose embeddings are extended by tower and projector."""

    def __init__(self, cfg: Any) -> None:
        super().__init__(cfg)
        _give_ears(self, "model.embed_tokens_extend.audio_embed", None, decoder="model.")

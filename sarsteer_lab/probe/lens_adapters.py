"""TransformerLens adapters for audio families that it does not bridge itself.

`pyproject.toml` declares them in the entry-point group `transformer_lens.architectures`, so
TransformerLens finds them wherever this package is installed. Each is the adapter of the family's
text decoder, moved to where the decoder lies; audio tower and projector are wrapped whole (input
and output hooks), and the model's own forward puts the audio in.

Left out: Qwen3-Omni, whose experts and position embeddings would need components of their own.
"""

from typing import Any

from transformer_lens.model_bridge.architecture_adapter import ArchitectureAdapter
from transformer_lens.model_bridge.generalized_components import AttentionBridge, LinearBridge
from transformer_lens.model_bridge.generalized_components.base import GeneralizedComponent
from transformer_lens.model_bridge.supported_architectures.granite import GraniteArchitectureAdapter
from transformer_lens.model_bridge.supported_architectures.llama import LlamaArchitectureAdapter
from transformer_lens.model_bridge.supported_architectures.phi3 import Phi3ArchitectureAdapter
from transformer_lens.model_bridge.supported_architectures.qwen2 import Qwen2ArchitectureAdapter


class _WithEars(ArchitectureAdapter):
    """A text adapter with its components below `decoder`, and with audio tower and projector."""

    tower = "model.audio_tower"
    projector: str | None = None
    decoder = "model.language_model."

    def __init__(self, cfg: Any) -> None:
        super().__init__(cfg)
        adapter: Any = self
        adapter.cfg.is_multimodal = True
        if self.decoder != "model.":
            adapter._reprefix_components("model.", self.decoder)
        adapter.component_mapping["audio_encoder"] = GeneralizedComponent(name=self.tower)
        if self.projector is not None:
            adapter.component_mapping["audio_projector"] = GeneralizedComponent(name=self.projector)


class VoxtralAdapter(_WithEars, LlamaArchitectureAdapter):
    """`VoxtralForConditionalGeneration`: a Llama decoder."""

    projector = "model.multi_modal_projector"


class GraniteSpeechAdapter(_WithEars, GraniteArchitectureAdapter):
    """`GraniteSpeechForConditionalGeneration`: a Granite decoder with its scaled residuals."""

    tower, projector = "model.encoder", "model.projector"


class Phi4MultimodalAdapter(_WithEars, Phi3ArchitectureAdapter):
    """`Phi4MultimodalForCausalLM`: a Phi-3 decoder; tower and projector extend its embeddings."""

    tower, decoder = "model.embed_tokens_extend.audio_embed", "model."


class _Qwen2_5OmniDecoder(Qwen2ArchitectureAdapter):
    """A Qwen2 decoder with three-part rotary positions, which live in the model's own attention."""

    def __init__(self, cfg: Any) -> None:
        super().__init__(cfg)
        assert self.component_mapping is not None
        del self.component_mapping["rotary_emb"]
        projections = {}
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            projections[name[0]] = LinearBridge(name=name)
        self.component_mapping["blocks"].submodules["attn"] = AttentionBridge(
            name="self_attn",
            config=self.cfg,
            submodules=projections,
            maintain_native_attention=True,
            requires_attention_mask=True,
        )


class Qwen2_5OmniThinkerAdapter(_WithEars, _Qwen2_5OmniDecoder):
    """`Qwen2_5OmniThinkerForConditionalGeneration`: its tower projects within itself."""

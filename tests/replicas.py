"""Random-weight doubles of the other LALM families, of each family's own architecture.

A builder takes the tokenizer of the double (for the ids of its special tokens) and returns the
model class and its configuration. Sizes are as small as the architecture allows; what makes a
family peculiar stays in: Qwen-Omni's thinker, Qwen3-Omni's experts, Gemma's per-layer embeddings,
sliding windows and shared keys and values. Not the family's own are tokenizer, chat template and
the vision parts, which are left out, and two parts that need other packages: Granite Speech's
spectrogram (torchaudio's, computed with torch.stft) and Voxtral's chat format (mistral-common's).
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import transformers as hf
from jaxtyping import Float
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers.audio_utils import mel_filter_bank
from transformers.feature_extraction_sequence_utils import SequenceFeatureExtractor
from transformers.models.gemma3n import modeling_gemma3n

from sarsteer_lab.lalm import LALM
from sarsteer_lab.probe import replica as package
from sarsteer_lab.probe.replica import (
    CHAT_TEMPLATE,
    FRAMES,
    LAYERS,
    MELS,
    PRINTABLE,
    SPECIAL_TOKENS,
    TOWER,
    WIDTH,
    WINDOW_SECONDS,
    Built,
    character_tokenizer,
    qwen2_audio,
    random_model,
    text_sizes,
)
from sarsteer_lab.speech import SAMPLE_RATE

MODAL_VOCABULARY = 8
"""Ids that Gemma 3n's vision tower, and its audio tower, have of their own at the end of the
vocabulary."""
VOXTRAL_AUDIO_ID = 24
"""Voxtral's processor takes it for granted that this token is the placeholder."""
MORE_TOKENS = {
    "image_token": "<|image|>",
    "video_token": "<|video|>",
    "vision_bos_token": "<|vision_bos|>",
    "vision_eos_token": "<|vision_eos|>",
    # Gemma's names for the same kinds of tokens.
    "boa_token": "<|boa|>",
    "eoa_token": "<|eoa|>",
    "boi_token": "<|boi|>",
    "eoi_token": "<|eoi|>",
}
# For processors that put the brackets around a clip themselves.
BARE_TEMPLATE = CHAT_TEMPLATE.replace("<|audio_bos|><|AUDIO|><|audio_eos|>", "<|AUDIO|>")


def replica(
    family: str = "qwen2_audio", *, seed: int = 0, dtype: torch.dtype = torch.float32
) -> LALM:
    """The tiny double of any family: the package's own for Qwen2-Audio. And those of `OTHERS`."""
    if family == "text_only":
        return text_only(seed, dtype)
    if family.startswith("lora"):
        return with_lora(replica(seed=seed, dtype=dtype), merged=family == "lora_merged", seed=seed)
    if family == "qwen2_audio":
        return package.replica(family, seed=seed, dtype=dtype)
    tokenizer = _tokenizer(family)
    model_class, config = TINY[family](tokenizer)
    with _no_pictures(family):
        model = random_model(model_class, config, seed=seed, dtype=dtype, device="cpu")
    if family in ("granite_speech", "phi4_multimodal"):
        add_speech_adapter(model, seed)
    return LALM(model, _processor(family, tokenizer), name=f"replica of {family} (tiny)")


OTHERS = ("text_only", "lora_loaded", "lora_merged")
"""What is no family: a text model, and Qwen2-Audio in peft's wrapper or with its LoRA merged."""

PLAIN = (
    "{% for m in messages %}<|im_start|>{{ m['role'] + '\n' + m['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def text_only(seed: int = 0, dtype: torch.dtype = torch.float32) -> LALM:
    """A text model (Qwen2) and its tokenizer, loaded as anyone would."""
    tokenizer = _tokenizer("text_only")
    tokenizer.chat_template = PLAIN
    config = hf.Qwen2Config(**text_sizes(tokenizer))
    model = random_model(hf.Qwen2ForCausalLM, config, seed=seed, dtype=dtype, device="cpu")
    return LALM(model, tokenizer, name="a text model (tiny)")


def with_lora(lalm: LALM, *, merged: bool = False, seed: int = 0) -> LALM:
    """The model in peft's wrapper, with a LoRA on attention and vocabulary head that no test can
    miss."""
    modules = r".*language_model\.layers\.\d+\.self_attn\.(q_proj|v_proj)|.*lm_head"
    lora = LoraConfig(r=2, lora_alpha=4, target_modules=modules, init_lora_weights=False)
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        model = get_peft_model(lalm.model, lora)
    return LALM(
        model.merge_and_unload() if merged else model, lalm.processor, name=f"{lalm.name} with LoRA"
    )


def add_speech_adapter(model: Any, seed: int = 0) -> None:
    """A LoRA of the family's kind: on the decoder's attention, of a strength that no test can
    miss."""
    layers = r"model\.(language_model\.)?layers\.\d+\.self_attn\.(q_proj|v_proj|qkv_proj)"
    lora = LoraConfig(r=2, lora_alpha=4, target_modules=layers, init_lora_weights=False)
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        model.add_adapter(lora)
    model.eval()


def _tokenizer(family: str) -> Any:
    special = SPECIAL_TOKENS | MORE_TOKENS
    tokens = [*special.values(), *PRINTABLE]
    if family == "voxtral":
        tokens.remove(special["audio_token"])
        tokens.insert(VOXTRAL_AUDIO_ID, special["audio_token"])
    if family == "gemma3n":
        # The last ids are the vision tower's, then the audio tower's vocabulary, its placeholder
        # first.
        for name in ("image_token", "audio_token"):
            tokens.remove(special[name])
            tokens += [special[name], *(f"<{name} {i}>" for i in range(1, MODAL_VOCABULARY))]
    return character_tokenizer(
        tokens,
        special,
        _MistralLikeTokenizer if family == "voxtral" else hf.PreTrainedTokenizerFast,
    )


def _no_pictures(family: str) -> AbstractContextManager[Any]:
    """Gemma 3n's vision tower is a timm model; while the replica is built, nothing takes its
    place."""
    if family != "gemma3n":
        return nullcontext()

    def from_config(config: Any, **options: Any) -> nn.Module:
        vision = config.model_type == "gemma3n_vision"
        return nn.Identity() if vision else hf.AutoModel.from_config(config, **options)

    return patch.object(modeling_gemma3n, "AutoModel", SimpleNamespace(from_config=from_config))


def _processor(family: str, tokenizer: Any) -> Any:
    """The family's own processor around a small feature extractor, without its vision parts."""
    whisper = hf.WhisperFeatureExtractor(feature_size=MELS, chunk_length=WINDOW_SECONDS)
    chat = {"chat_template": CHAT_TEMPLATE}
    bare = {"chat_template": BARE_TEMPLATE}
    if family in ("qwen2_5_omni", "qwen3_omni"):
        base = hf.Qwen2_5OmniProcessor if family == "qwen2_5_omni" else hf.Qwen3OmniMoeProcessor
        return _without_vision(base, feature_extractor=whisper, tokenizer=tokenizer, **chat)
    if family == "voxtral":
        return _SmallVoxtralProcessor(whisper, tokenizer)
    if family == "audioflamingo3":
        return hf.AudioFlamingo3Processor(
            whisper, tokenizer, audio_token="<|AUDIO|>", max_audio_len=24, **chat
        )
    if family == "musicflamingo":
        brackets = {"audio_bos_token": "<|audio_bos|>", "audio_eos_token": "<|audio_eos|>"}
        return hf.MusicFlamingoProcessor(
            whisper, tokenizer, audio_token="<|AUDIO|>", max_audio_len=24, **brackets, **bare
        )
    if family == "phi4_multimodal":
        features = hf.Phi4MultimodalFeatureExtractor(feature_size=MELS)
        return _without_vision(
            hf.Phi4MultimodalProcessor, audio_processor=features, tokenizer=tokenizer, **chat
        )
    if family == "granite_speech":
        features = GraniteFeatures(n_mels=MELS)
        return hf.GraniteSpeechProcessor(features, tokenizer, **chat)
    if family == "gemma3n":
        features = hf.Gemma3nAudioFeatureExtractor(feature_size=MELS)
        return _without_vision(
            hf.Gemma3nProcessor,
            feature_extractor=features,
            tokenizer=tokenizer,
            audio_seq_length=50,
            **bare,
        )
    features = hf.Gemma4AudioFeatureExtractor(feature_size=MELS)
    return _without_vision(
        hf.Gemma4Processor,
        feature_extractor=features,
        tokenizer=tokenizer,
        audio_seq_length=200,
        **bare,
    )


def _without_vision(base: Any, **parts: Any) -> Any:
    """A processor of class `base` whose parts for pictures and films are missing (they need
    torchvision)."""

    class WithoutVision(base):
        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            return (
                argument
                if argument is None
                else super().check_argument_for_proper_class(argument_name, argument)
            )

    blank = {
        name: None
        for name in base.get_attributes()
        if name in ("image_processor", "video_processor")
    }
    processor = WithoutVision(**blank, **parts)
    for name in blank:
        delattr(processor, name)
    WithoutVision.__name__ = base.__name__
    return processor


class _SmallVoxtralProcessor(hf.VoxtralProcessor):
    """Voxtral's processor with the replica's window instead of 30 s."""

    audio_kwargs = {
        **hf.VoxtralProcessor.audio_kwargs,
        "pad_to_multiple_of": WINDOW_SECONDS * SAMPLE_RATE,
        "max_source_positions": WINDOW_SECONDS * 100,
    }


class _MistralLikeTokenizer(hf.PreTrainedTokenizerFast):
    """Stands in for mistral-common's tokenizer: renders chats and returns their clips beside the
    ids.

    It fills the same inputs (12.5 placeholders a second, whole windows), in the replica's chat
    format. As with the real one, special tokens come from chats alone: text that spells them is
    read as characters.
    """

    def _encode_plus(self, text: Any, *args: Any, **options: Any) -> Any:
        return super()._encode_plus(text, *args, **{**options, "split_special_tokens": True})

    def _real_ids(self, rendered: str) -> list[int]:
        self._tokenizer.encode_special_tokens = False
        return self._tokenizer.encode(rendered, add_special_tokens=False).ids

    def apply_chat_template(self, conversation: Any, tokenize: bool = True, **options: Any) -> Any:
        """Text of one conversation, or ids of several, left-padded, and their clips under
        "audio"."""
        if not tokenize:
            return self._render(conversation, [])
        clips: list[np.ndarray] = []
        rows = [self._real_ids(self._render(turns, clips)) for turns in conversation]
        encoded = self.pad({"input_ids": rows}, padding=True)
        if clips:
            encoded["audio"] = clips
        return encoded

    def _render(self, turns: Any, clips: list[np.ndarray]) -> str:
        text = ""
        for turn in turns:
            parts = turn["content"]
            if isinstance(parts, str):
                parts = [{"type": "text", "text": parts}]
            body = "".join(
                part["text"] if part["type"] == "text" else self._clip(part, clips)
                for part in parts
            )
            text += f"<|im_start|>{turn['role']}\n{body}<|im_end|>\n"
        return text + "<|im_start|>assistant\n"

    def _clip(self, part: dict[str, Any], clips: list[np.ndarray]) -> str:
        samples = hf.audio_utils.load_audio(part["base64"], sampling_rate=SAMPLE_RATE)
        clips.append(samples)
        windows = -(-len(samples) // (WINDOW_SECONDS * SAMPLE_RATE))
        return (
            "<|audio_bos|>" + "<|AUDIO|>" * (windows * WINDOW_SECONDS * 25 // 2) + "<|audio_eos|>\n"
        )


class GraniteFeatures(hf.GraniteSpeechFeatureExtractor):
    """Granite Speech's features without torchaudio: its spectrogram (power, HTK mels) by
    torch.stft."""

    def __init__(
        self, n_mels: int, n_fft: int = 512, win_length: int = 400, hop_length: int = 160
    ) -> None:
        SequenceFeatureExtractor.__init__(
            self, feature_size=n_mels, sampling_rate=SAMPLE_RATE, padding_value=0.0
        )
        self.melspec_kwargs = {"n_fft": n_fft, "win_length": win_length, "hop_length": hop_length}
        self.projector_window_size, self.projector_downsample_rate = 15, 5
        self.filters = mel_filter_bank(
            n_fft // 2 + 1, n_mels, 0.0, SAMPLE_RATE / 2, SAMPLE_RATE, mel_scale="htk"
        )

    def __call__(self, audios: Any, device: str | None = "cpu") -> hf.BatchFeature:
        """Features, number of audio tokens and the mask over these, as Granite's own extractor
        gives them."""
        waves, lengths = self._get_audios_and_audio_lengths(audios)
        sizes = self._get_num_audio_features(lengths)
        mask = torch.arange(max(sizes))[None] < torch.tensor(sizes)[:, None]
        return hf.BatchFeature(
            {
                "input_features": self._log_mels(waves),
                "audio_embed_sizes": sizes,
                "input_features_mask": mask,
            }
        )

    def _log_mels(self, waves: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch frame mels"]:
        window = torch.hann_window(self.melspec_kwargs["win_length"])
        n_fft, win_length, hop_length = self.melspec_kwargs.values()
        spectrum = torch.stft(
            waves.float(), n_fft, hop_length, win_length, window, return_complex=True
        )
        mels = spectrum.abs().square().transpose(1, 2) @ torch.from_numpy(self.filters).float()
        logs = mels.clamp(min=1e-10).log10()
        logs = torch.maximum(logs, logs.amax(dim=(1, 2), keepdim=True) - 8) / 4 + 1
        # Two frames are stacked into one.
        return logs[:, : logs.shape[1] // 2 * 2].reshape(len(logs), -1, 2 * logs.shape[2])


def _encoder(model_type: str, **more: Any) -> dict[str, Any]:
    """A Whisper-like audio tower in the naming of newer configurations."""
    return {
        "model_type": model_type,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_mel_bins": MELS,
        "max_source_positions": FRAMES // 2,
        "initializer_range": 0.3,
        **more,
    }


def _voxtral(tokenizer: Any) -> Built:
    # Four encoder positions make one audio token, so the projector reads rows of intermediate_size
    # = 4 * 16.
    config = hf.VoxtralConfig(
        audio_config=_encoder("voxtral_encoder", intermediate_size=64),
        text_config=text_sizes(tokenizer, model_type="llama", head_dim=8),
        audio_token_id=tokenizer.audio_token_id,
    )
    return hf.VoxtralForConditionalGeneration, config


def _audioflamingo3(tokenizer: Any) -> Built:
    config = hf.AudioFlamingo3Config(
        audio_config=_encoder("audioflamingo3_encoder"),
        text_config=text_sizes(tokenizer, model_type="qwen2"),
        audio_token_id=tokenizer.audio_token_id,
    )
    return hf.AudioFlamingo3ForConditionalGeneration, config


def _musicflamingo(tokenizer: Any) -> Built:
    config = hf.MusicFlamingoConfig(
        audio_config=_encoder("audioflamingo3_encoder"),
        text_config=text_sizes(tokenizer, model_type="qwen2"),
        audio_token_id=tokenizer.audio_token_id,
        audio_bos_token_id=tokenizer.audio_bos_token_id,
        audio_eos_token_id=tokenizer.audio_eos_token_id,
    )
    return hf.MusicFlamingoForConditionalGeneration, config


def _granite_speech(tokenizer: Any) -> Built:
    config = hf.GraniteSpeechConfig(
        encoder_config={
            "model_type": "granite_speech_encoder",
            # Two mel frames are stacked into one input frame.
            "input_dim": 2 * MELS,
            "num_layers": 2,
            "hidden_dim": 16,
            "num_heads": 2,
            "dim_head": 8,
            "output_dim": 8,
            "context_size": 10,
            "max_pos_emb": 16,
        },
        text_config=text_sizes(tokenizer, model_type="granite"),
        projector_config={
            "model_type": "blip_2_qformer",
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "encoder_hidden_size": 16,
            "cross_attention_frequency": 1,
        },
        audio_token_index=tokenizer.audio_token_id,
        downsample_rate=5,
        window_size=15,
        initializer_range=0.3,
    )
    return hf.GraniteSpeechForConditionalGeneration, config


def _vision(tokenizer: Any) -> dict[str, Any]:
    """The Qwen-Omnis' vision tower, never used here."""
    return {
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_heads": 2,
        "out_hidden_size": WIDTH,
    }


def _mrope(tokenizer: Any, **more: Any) -> dict[str, Any]:
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
    return text_sizes(tokenizer, rope_parameters=rope, **more)


def _qwen2_5_omni(tokenizer: Any) -> Built:
    thinker = {
        "audio_config": {
            **TOWER,
            "n_window": 20,
            "output_dim": WIDTH,
            "initializer_range": 0.3,
        },
        "vision_config": {**_vision(tokenizer), "fullatt_block_indexes": [0]},
        "text_config": _mrope(tokenizer),
        "audio_token_index": tokenizer.audio_token_id,
        "image_token_index": tokenizer.image_token_id,
        "video_token_index": tokenizer.video_token_id,
        "audio_start_token_id": tokenizer.audio_bos_token_id,
        "audio_end_token_id": tokenizer.audio_eos_token_id,
        "vision_start_token_id": tokenizer.vision_bos_token_id,
        "vision_end_token_id": tokenizer.vision_eos_token_id,
        "user_token_id": tokenizer.unk_token_id,
        "initializer_range": 0.3,
    }
    config = hf.Qwen2_5OmniConfig(thinker_config=thinker, enable_audio_output=False)
    return hf.Qwen2_5OmniForConditionalGeneration, config


def _qwen3_omni(tokenizer: Any) -> Built:
    thinker = {
        "audio_config": {
            **TOWER,
            "n_window": 50,
            "n_window_infer": 800,
            "output_dim": WIDTH,
            "downsample_hidden_size": 8,
            "conv_chunksize": 4,
            "initializer_range": 0.3,
        },
        "vision_config": {
            **_vision(tokenizer),
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0],
        },
        "text_config": _mrope(
            tokenizer,
            moe_intermediate_size=16,
            num_experts=4,
            num_experts_per_tok=2,
            head_dim=8,
        ),
        "audio_token_id": tokenizer.audio_token_id,
        "image_token_id": tokenizer.image_token_id,
        "video_token_id": tokenizer.video_token_id,
        "audio_start_token_id": tokenizer.audio_bos_token_id,
        "vision_start_token_id": tokenizer.vision_bos_token_id,
        "user_token_id": tokenizer.unk_token_id,
        "initializer_range": 0.3,
    }
    config = hf.Qwen3OmniMoeConfig(thinker_config=thinker, enable_audio_output=False)
    return hf.Qwen3OmniMoeForConditionalGeneration, config


def _phi4_multimodal(tokenizer: Any) -> Built:
    rope = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 1.0}
    config = hf.Phi4MultimodalConfig(
        **text_sizes(tokenizer, rope_parameters=rope),
        audio_config={
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_blocks": 2,
            "num_attention_heads": 2,
            "chunk_size": -1,
            "ext_pw_out_channel": 16,
            "depthwise_separable_out_channel": 16,
            "input_size": MELS,
            "time_reduction": 8,
            "nemo_conv_channels": 8,
            "audio_token_id": tokenizer.audio_token_id,
            "bias_max_distance": 10,
            "initializer_range": 0.3,
        },
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
            "crop_size": 28,
            "image_token_id": tokenizer.image_token_id,
        },
    )
    return hf.Phi4MultimodalForCausalLM, config


LAYER_TYPES = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]


def _gemma3n(tokenizer: Any) -> Built:
    vocabulary = len(tokenizer)
    config = hf.Gemma3nConfig(
        text_config=text_sizes(
            tokenizer,
            head_dim=8,
            vocab_size_per_layer_input=vocabulary,
            hidden_size_per_layer_input=8,
            num_kv_shared_layers=2,
            laurel_rank=4,
            altup_num_inputs=2,
            altup_active_idx=1,
            layer_types=LAYER_TYPES,
            activation_sparsity_pattern=[0.5, 0.0, 0.0, 0.0],
            sliding_window=512,
            intermediate_size=[64] * LAYERS,
        ),
        audio_config={
            "vocab_size": MODAL_VOCABULARY,
            "vocab_offset": vocabulary - MODAL_VOCABULARY,
            "input_feat_size": MELS,
            "hidden_size": 16,
            "conf_attention_chunk_size": 4,
            "conf_attention_context_left": 5,
            "conf_num_attention_heads": 2,
            "conf_num_hidden_layers": 2,
            "conf_conv_kernel_size": 3,
            "conf_reduction_factor": 4,
            "sscp_conv_channel_size": [8, 4],
        },
        vision_config={
            "architecture": "mobilenetv5_300m_enc",
            "hidden_size": 16,
            "vocab_size": MODAL_VOCABULARY,
            "vocab_offset": vocabulary - 2 * MODAL_VOCABULARY,
        },
        audio_soft_tokens_per_image=50,
        vision_soft_tokens_per_image=4,
        audio_token_id=tokenizer.audio_token_id,
        image_token_id=tokenizer.image_token_id,
        boa_token_id=tokenizer.boa_token_id,
        eoa_token_id=tokenizer.eoa_token_id,
        boi_token_id=tokenizer.boi_token_id,
        eoi_token_id=tokenizer.eoi_token_id,
    )
    return hf.Gemma3nForConditionalGeneration, config


def _gemma4(tokenizer: Any) -> Built:
    config = hf.Gemma4Config(
        text_config=text_sizes(
            tokenizer,
            head_dim=8,
            global_head_dim=8,
            vocab_size_per_layer_input=len(tokenizer),
            hidden_size_per_layer_input=8,
            num_kv_shared_layers=2,
            layer_types=LAYER_TYPES,
            sliding_window=512,
        ),
        audio_config={
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "subsampling_conv_channels": [16, 4],
            "conv_kernel_size": 3,
            "attention_chunk_size": 4,
            "attention_context_left": 5,
            "output_proj_dims": 16,
        },
        vision_config=None,
        audio_token_id=tokenizer.audio_token_id,
        image_token_id=tokenizer.image_token_id,
        video_token_id=tokenizer.video_token_id,
        boi_token_id=tokenizer.boi_token_id,
        eoi_token_id=tokenizer.eoi_token_id,
        boa_token_id=tokenizer.boa_token_id,
        eoa_token_index=tokenizer.eoa_token_id,
    )
    return hf.Gemma4ForConditionalGeneration, config


TINY: dict[str, Callable[[Any], Built]] = {
    "qwen2_audio": qwen2_audio,
    "qwen2_5_omni": _qwen2_5_omni,
    "qwen3_omni": _qwen3_omni,
    "voxtral": _voxtral,
    "audioflamingo3": _audioflamingo3,
    "musicflamingo": _musicflamingo,
    "phi4_multimodal": _phi4_multimodal,
    "granite_speech": _granite_speech,
    "gemma3n": _gemma3n,
    "gemma4": _gemma4,
}

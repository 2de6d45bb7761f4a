"""Configurations of the replicas: each family's own architecture, a few layers deep and 32 wide.

A builder takes the tokenizer of the replica (for the ids of its special tokens) and returns the model class
and its configuration. Sizes are as small as the architecture allows; what makes a family peculiar stays in:
Qwen-Omni's thinker, Qwen3-Omni's experts, Gemma's per-layer embeddings, sliding windows and shared keys and
values.
"""

from collections.abc import Callable
from typing import Any

import transformers as hf

WIDTH, LAYERS, MELS, WINDOW_SECONDS = 32, 4, 16, 8
FRAMES = WINDOW_SECONDS * 100
MODAL_VOCABULARY = 8
"""Ids that Gemma 3n's vision tower, and its audio tower, have of their own at the end of the vocabulary."""
Built = tuple[Any, Any]


def _text(tokenizer: Any, **more: Any) -> dict[str, Any]:
    """What all tiny decoders share. The wide initialisation keeps attention from being flat, so that every
    position matters to the answer.
    """
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": 64,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "initializer_range": 0.3,
        **_ids(tokenizer),
        **more,
    }


def _ids(tokenizer: Any) -> dict[str, Any]:
    return {
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


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


def _qwen2_audio(tokenizer: Any) -> Built:
    config = hf.Qwen2AudioConfig(
        audio_config={
            "model_type": "qwen2_audio_encoder",
            "d_model": 16,
            "encoder_layers": 2,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": 32,
            "num_mel_bins": MELS,
            "max_source_positions": FRAMES // 2,
            "init_std": 0.3,
        },
        text_config=_text(tokenizer, model_type="qwen2"),
        audio_token_index=tokenizer.audio_token_id,
        **_ids(tokenizer),
    )
    return hf.Qwen2AudioForConditionalGeneration, config


def _voxtral(tokenizer: Any) -> Built:
    # Four encoder positions make one audio token, so the projector reads rows of intermediate_size = 4 * 16.
    config = hf.VoxtralConfig(
        audio_config=_encoder("voxtral_encoder", intermediate_size=64),
        text_config=_text(tokenizer, model_type="llama", head_dim=8),
        audio_token_id=tokenizer.audio_token_id,
    )
    return hf.VoxtralForConditionalGeneration, config


def _audioflamingo3(tokenizer: Any) -> Built:
    config = hf.AudioFlamingo3Config(
        audio_config=_encoder("audioflamingo3_encoder"),
        text_config=_text(tokenizer, model_type="qwen2"),
        audio_token_id=tokenizer.audio_token_id,
    )
    return hf.AudioFlamingo3ForConditionalGeneration, config


def _musicflamingo(tokenizer: Any) -> Built:
    config = hf.MusicFlamingoConfig(
        audio_config=_encoder("audioflamingo3_encoder"),
        text_config=_text(tokenizer, model_type="qwen2"),
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
        text_config=_text(tokenizer, model_type="granite"),
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
        has_lora_adapter=False,
        downsample_rate=5,
        window_size=15,
        initializer_range=0.3,
    )
    return hf.GraniteSpeechForConditionalGeneration, config


def _vision(tokenizer: Any) -> dict[str, Any]:
    """The Qwen-Omnis' vision tower, never used here."""
    return {"depth": 1, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": WIDTH}


def _mrope(tokenizer: Any, **more: Any) -> dict[str, Any]:
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
    return _text(tokenizer, rope_parameters=rope, **more)


def _qwen2_5_omni(tokenizer: Any) -> Built:
    thinker = {
        "audio_config": {
            "d_model": 16,
            "encoder_layers": 2,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": 32,
            "num_mel_bins": MELS,
            "max_source_positions": FRAMES // 2,
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
            "d_model": 16,
            "encoder_layers": 2,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": 32,
            "num_mel_bins": MELS,
            "max_source_positions": FRAMES // 2,
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
        **_text(tokenizer, rope_parameters=rope),
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
        text_config=_text(
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
        text_config=_text(
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
    "qwen2_audio": _qwen2_audio,
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


def qwen2_audio_7b(tokenizer: Any) -> Built:
    """The shape of Qwen2-Audio-7B, from its published configuration: 8.4 billion parameters."""
    config = hf.Qwen2AudioConfig(
        audio_config={
            "model_type": "qwen2_audio_encoder",
            "d_model": 1280,
            "encoder_layers": 32,
            "encoder_attention_heads": 20,
            "encoder_ffn_dim": 5120,
            "num_mel_bins": 128,
            "max_source_positions": 1500,
        },
        text_config={
            "model_type": "qwen2",
            "vocab_size": 156032,
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-5,
            **_ids(tokenizer),
        },
        audio_token_index=tokenizer.audio_token_id,
        **_ids(tokenizer),
    )
    return hf.Qwen2AudioForConditionalGeneration, config

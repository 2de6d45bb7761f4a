"""Random-weight replicas of LALM families, built offline from configuration in milliseconds.

Their answers are noise. Everything else about them is real: architecture, processor, audio positions, chat
format. They are for tests and for trying code before a real model is loaded.

What is not the family's own: the tokenizer (a character is a token), the chat template (one for all) and the
vision parts, which are left out. Two replicas bring a part of ours where the family's needs a package that
the project does without: Granite Speech's spectrogram (torchaudio's, computed with torch.stft) and Voxtral's
chat format (mistral-common's).
"""

from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import transformers as hf
from jaxtyping import Float
from tokenizers import AddedToken, Tokenizer, decoders, models
from torch import Tensor, nn
from transformers.audio_utils import mel_filter_bank
from transformers.feature_extraction_sequence_utils import SequenceFeatureExtractor
from transformers.models.gemma3n import modeling_gemma3n

from sarsteer_lab.lalm import LALM
from sarsteer_lab.loading import pick_device
from sarsteer_lab.probe.replica_configs import MELS, MODAL_VOCABULARY, TINY, WINDOW_SECONDS, qwen2_audio_7b
from sarsteer_lab.speech import SAMPLE_RATE

SPECIAL_TOKENS = {
    "unk_token": "<unk>",
    "pad_token": "<|endoftext|>",
    "bos_token": "<|im_start|>",
    "eos_token": "<|im_end|>",
    "audio_bos_token": "<|audio_bos|>",
    "audio_token": "<|AUDIO|>",
    "audio_eos_token": "<|audio_eos|>",
}
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
PRINTABLE = ("\n", *map(chr, range(32, 127)))
VOXTRAL_AUDIO_ID = 24
"""Voxtral's processor takes it for granted that this token is the placeholder."""

CHAT_TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are a replica.<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'audio' %}<|audio_bos|><|AUDIO|><|audio_eos|>\n"
    "{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# For processors that put the brackets around a clip themselves.
BARE_TEMPLATE = CHAT_TEMPLATE.replace("<|audio_bos|><|AUDIO|><|audio_eos|>", "<|AUDIO|>")


def replica(
    family: str = "qwen2_audio",
    *,
    size: str = "tiny",
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> LALM:
    """A random-weight LALM of `family`, with a working processor that reads a character as a token.

    `size` "tiny" has 4 layers of width 32 and, where the family has a window, one of 8 s like the pocket
    model's. "real" is the shape of Qwen2-Audio-7B (8.4 billion parameters, 17 GB in bfloat16). The weights
    are made on `device` in `dtype` and depend on `seed` (and the device) alone; torch's global random state
    is left as it was. Raises ValueError for a family or size without a replica.
    """
    if size not in ("tiny", "real") or family not in (TINY if size == "tiny" else ("qwen2_audio",)):
        raise ValueError(
            f"no replica of family {family!r} in size {size!r}; in 'tiny' there are {', '.join(TINY)}, in "
            "'real' qwen2_audio"
        )
    tokenizer = _tokenizer(family)
    model_class, config = (TINY[family] if size == "tiny" else qwen2_audio_7b)(tokenizer)
    processor = _processor(family, tokenizer, size)
    default = torch.get_default_dtype()
    place = torch.device(device)
    with torch.random.fork_rng([place] if place.type == "cuda" else []), place, _no_pictures(family):
        torch.manual_seed(seed)
        torch.set_default_dtype(dtype)
        try:
            model = model_class(config)
        finally:
            torch.set_default_dtype(default)
    return LALM(model, processor, name=f"replica of {family} ({size})")


def load_replica(variant: str, *, device: str, safety: float, **_of_checkpoints: object) -> LALM:
    """Entry point of `load_lalm("replica:FAMILY")`. Raises ValueError for a dial, which no replica has."""
    if safety != 1.0:
        raise ValueError(f"safety={safety} is a dial of the pocket model; a replica has none")
    lalm = replica(variant or "qwen2_audio", device=pick_device(device))
    lalm.name = f"replica:{lalm.family.name}"  # the name by which another process can load it
    return lalm


def _no_pictures(family: str) -> AbstractContextManager[Any]:
    """Gemma 3n's vision tower is a timm model; while the replica is built, nothing takes its place."""
    if family != "gemma3n":
        return nullcontext()

    def from_config(config: Any, **options: Any) -> nn.Module:
        vision = config.model_type == "gemma3n_vision"
        return nn.Identity() if vision else hf.AutoModel.from_config(config, **options)

    return patch.object(modeling_gemma3n, "AutoModel", SimpleNamespace(from_config=from_config))


def _tokenizer(family: str) -> Any:
    """A tokenizer of printable ASCII characters: whatever a replica emits is readable text."""
    special = SPECIAL_TOKENS if family == "qwen2_audio" else SPECIAL_TOKENS | MORE_TOKENS
    tokens = [*special.values(), *PRINTABLE]
    if family == "voxtral":
        tokens.remove(special["audio_token"])
        tokens.insert(VOXTRAL_AUDIO_ID, special["audio_token"])
    if family == "gemma3n":
        # The last ids are the vision tower's, then the audio tower's vocabulary, its placeholder first.
        for name in ("image_token", "audio_token"):
            tokens.remove(special[name])
            tokens += [special[name], *(f"<{name} {i}>" for i in range(1, MODAL_VOCABULARY))]
    backend = Tokenizer(
        models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=[], unk_token="<unk>")
    )
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens([AddedToken(token, special=True) for token in special.values()])
    usual = {name: special[name] for name in ("unk_token", "pad_token", "eos_token")}
    others = {name: token for name, token in special.items() if name not in (*usual, "bos_token")}
    kind = _MistralLikeTokenizer if family == "voxtral" else hf.PreTrainedTokenizerFast
    return kind(tokenizer_object=backend, padding_side="left", **usual, extra_special_tokens=others)


def _processor(family: str, tokenizer: Any, size: str) -> Any:
    """The family's own processor around a small feature extractor, without its vision parts."""
    whisper = hf.WhisperFeatureExtractor(
        feature_size=MELS if size == "tiny" else 128, chunk_length=WINDOW_SECONDS if size == "tiny" else 30
    )
    chat = {"chat_template": CHAT_TEMPLATE}
    bare = {"chat_template": BARE_TEMPLATE}
    if family == "qwen2_audio":
        return hf.Qwen2AudioProcessor(whisper, tokenizer, **chat)
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
        features = _GraniteFeatures(n_mels=MELS)
        return hf.GraniteSpeechProcessor(features, tokenizer, **chat)
    if family == "gemma3n":
        features = hf.Gemma3nAudioFeatureExtractor(feature_size=MELS)
        return _without_vision(
            hf.Gemma3nProcessor, feature_extractor=features, tokenizer=tokenizer, audio_seq_length=50, **bare
        )
    features = hf.Gemma4AudioFeatureExtractor(feature_size=MELS)
    return _without_vision(
        hf.Gemma4Processor, feature_extractor=features, tokenizer=tokenizer, audio_seq_length=200, **bare
    )


def _without_vision(base: Any, **parts: Any) -> Any:
    """A processor of class `base` whose parts for pictures and films are missing (they need torchvision)."""

    class WithoutVision(base):
        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            return (
                argument
                if argument is None
                else super().check_argument_for_proper_class(argument_name, argument)
            )

    blank = {name: None for name in base.get_attributes() if name in ("image_processor", "video_processor")}
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
    """Stands in for mistral-common's tokenizer: renders chats and returns their clips beside the ids.

    It fills the same inputs (12.5 placeholders a second, whole windows), in the replica's chat format.
    """

    def apply_chat_template(self, conversation: Any, tokenize: bool = True, **options: Any) -> Any:
        """Text of one conversation, or ids of several, left-padded, and their clips under "audio"."""
        if not tokenize:
            return self._render(conversation, [])
        clips: list[np.ndarray] = []
        texts = [self._render(turns, clips) for turns in conversation]
        encoded = self(texts, padding=True, add_special_tokens=False)
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
                part["text"] if part["type"] == "text" else self._clip(part, clips) for part in parts
            )
            text += f"<|im_start|>{turn['role']}\n{body}<|im_end|>\n"
        return text + "<|im_start|>assistant\n"

    def _clip(self, part: dict[str, Any], clips: list[np.ndarray]) -> str:
        samples = hf.audio_utils.load_audio(part["base64"], sampling_rate=SAMPLE_RATE)
        clips.append(samples)
        windows = -(-len(samples) // (WINDOW_SECONDS * SAMPLE_RATE))
        return "<|audio_bos|>" + "<|AUDIO|>" * (windows * WINDOW_SECONDS * 25 // 2) + "<|audio_eos|>\n"


class _GraniteFeatures(hf.GraniteSpeechFeatureExtractor):
    """Granite Speech's features without torchaudio: its spectrogram (power, HTK mels) by torch.stft."""

    def __init__(self, n_mels: int, n_fft: int = 512, win_length: int = 400, hop_length: int = 160) -> None:
        SequenceFeatureExtractor.__init__(
            self, feature_size=n_mels, sampling_rate=SAMPLE_RATE, padding_value=0.0
        )
        self.melspec_kwargs = {"n_fft": n_fft, "win_length": win_length, "hop_length": hop_length}
        self.projector_window_size, self.projector_downsample_rate = 15, 5
        self.filters = mel_filter_bank(
            n_fft // 2 + 1, n_mels, 0.0, SAMPLE_RATE / 2, SAMPLE_RATE, mel_scale="htk"
        )

    def __call__(self, audios: Any, device: str | None = "cpu") -> hf.BatchFeature:
        """Features, number of audio tokens and the mask over these, as Granite's own extractor gives them."""
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
        spectrum = torch.stft(waves.float(), n_fft, hop_length, win_length, window, return_complex=True)
        mels = spectrum.abs().square().transpose(1, 2) @ torch.from_numpy(self.filters).float()
        logs = mels.clamp(min=1e-10).log10()
        logs = torch.maximum(logs, logs.amax(dim=(1, 2), keepdim=True) - 8) / 4 + 1
        # Two frames are stacked into one.
        return logs[:, : logs.shape[1] // 2 * 2].reshape(len(logs), -1, 2 * logs.shape[2])

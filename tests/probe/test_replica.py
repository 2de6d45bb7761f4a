"""Replicas: sizes, seeds, and where their parts are not the family's own, that these fill the same
inputs."""

import base64
import json

import numpy as np
import pytest
import torch
from replicas import TINY, GraniteFeatures, replica
from transformers import VoxtralForConditionalGeneration, VoxtralProcessor, WhisperFeatureExtractor

from sarsteer_lab.activations import capture
from sarsteer_lab.lalm import LALM
from sarsteer_lab.probe import replica as package
from sarsteer_lab.probe.replica import qwen2_audio_7b
from sarsteer_lab.prompts import Prompt


def test_weights_depend_on_the_seed_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = replica("gemma4", seed=2)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(3)
    assert (
        replica("gemma4", seed=2).fingerprint()
        == first.fingerprint()
        != replica("gemma4", seed=3).fingerprint()
    )


@pytest.mark.parametrize("family", sorted(TINY))
def test_replicas_come_in_the_dtype_asked_for(family):
    lalm = replica(family, dtype=torch.bfloat16)
    assert lalm.dtype == torch.bfloat16 and torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize(
    ("family", "size"), [("no_such", "tiny"), ("qwen2_audio", "huge"), ("voxtral", "tiny")]
)
def test_what_there_is_no_replica_of_is_said(family, size):
    with pytest.raises(ValueError, match="no replica"):
        package.replica(family, size=size)


def test_the_real_size_has_the_published_shape():
    with torch.device("meta"):
        model_class, config = qwen2_audio_7b(replica().tokenizer)
        model = model_class(config)
    # The published checkpoint has 8,397,094,912 parameters.
    assert sum(parameter.numel() for parameter in model.parameters()) == 8_397_094_912


def test_granites_features_are_its_own_extractors():
    """Against torchaudio where it is installed: same features, sizes and mask."""
    pytest.importorskip("torchaudio")
    from transformers import GraniteSpeechFeatureExtractor

    clips = [
        np.random.default_rng(i).standard_normal(16000 + 7000 * i).astype(np.float32) / 5
        for i in range(2)
    ]
    theirs, ours = GraniteSpeechFeatureExtractor()(clips), GraniteFeatures(n_mels=80)(clips)
    torch.testing.assert_close(
        ours["input_features"], theirs["input_features"], rtol=1e-3, atol=1e-3
    )
    assert list(ours["audio_embed_sizes"]) == list(theirs["audio_embed_sizes"])
    assert torch.equal(ours["input_features_mask"], theirs["input_features_mask"])


def test_voxtrals_clip_arrives_unchanged(make_clip):
    lalm = replica("voxtral")
    clip = make_clip(1.3, 1)
    inputs = lalm.inputs([Prompt("Hi", clip)])
    extractor = lalm.processor.feature_extractor
    padded = np.pad(clip, (0, 8 * 16000 - len(clip)))
    expected = extractor(padded, sampling_rate=16000, return_tensors="pt")["input_features"]
    torch.testing.assert_close(inputs["input_features"], expected, rtol=1e-4, atol=1e-4)
    # Longer than the window: a second one.
    assert lalm.inputs([Prompt("Hi", make_clip(9.0, 1))])["input_features"].shape[0] == 2


def test_voxtral_with_mistral_commons_own_tokenizer(tmp_path, prompts):
    """The real tokenizer (where it is installed) on a vocabulary of bytes, with the real 30 s
    window."""
    tekken = pytest.importorskip("mistral_common.tokens.tokenizers.tekken")
    from transformers.tokenization_mistral_common import MistralCommonBackend

    special = {
        int(t["rank"]): str(t["token_str"].value)
        for t in tekken.Tekkenizer.DEPRECATED_SPECIAL_TOKENS[:20]
    }
    special |= {24: "[AUDIO]", 25: "[BEGIN_AUDIO]", 34: "[TRANSCRIBE]"}
    tokenizer = {
        "config": {
            "pattern": "[\\s\\S]",
            "num_vocab_tokens": 256,
            "default_vocab_size": 1256,
            "default_num_special_tokens": 1000,
            "version": "v7",
        },
        "vocab": [
            {"rank": i, "token_bytes": base64.b64encode(bytes([i])).decode(), "token_str": None}
            for i in range(256)
        ],
        "special_tokens": [
            {"rank": r, "token_str": t, "is_control": True} for r, t in special.items()
        ],
        "audio": {
            "sampling_rate": 16000,
            "frame_rate": 12.5,
            "chunk_length_s": 30.0,
            "audio_encoding_config": {"num_mel_bins": 128, "hop_length": 160, "window_size": 400},
        },
    }
    (tmp_path / "tekken.json").write_text(json.dumps(tokenizer))
    real = MistralCommonBackend(tokenizer_path=str(tmp_path / "tekken.json"))
    config = replica("voxtral").model.config
    config.audio_config.max_source_positions = 1500
    config.text_config.vocab_size = 1256
    processor = VoxtralProcessor(WhisperFeatureExtractor(feature_size=16, chunk_length=30), real)
    lalm = LALM(VoxtralForConditionalGeneration(config), processor, name="voxtral")
    some = [prompt for prompt in prompts if prompt.system is None]
    inputs = lalm.inputs(some)
    heard = (inputs["input_ids"] == lalm.audio_token_id).sum(1).tolist()
    assert heard == [375 if prompt.audio is not None else 0 for prompt in some]
    assert inputs["attention_mask"][:, -1].all()
    assert lalm.chat(some[1]).endswith(f"[AUDIO]\n\n{some[1].text}[/INST]")
    alone = torch.cat([capture(lalm, [prompt]) for prompt in some])
    torch.testing.assert_close(
        capture(lalm, some), alone, rtol=1e-5, atol=1e-5 * alone.abs().max().item()
    )

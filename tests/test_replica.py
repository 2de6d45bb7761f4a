"""Replicas: sizes, seeds, and where their parts are not the family's own, that these fill the same inputs."""

import numpy as np
import pytest
import torch

from sarsteer_lab.lalm import Prompt
from sarsteer_lab.replica import _GraniteFeatures, replica
from sarsteer_lab.replica_configs import TINY, qwen2_audio_7b


def test_weights_depend_on_the_seed_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = replica("gemma4", seed=2)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(3)
    assert replica("gemma4", seed=2).fingerprint == first.fingerprint != replica("gemma4", seed=3).fingerprint


@pytest.mark.parametrize("family", sorted(TINY))
def test_replicas_come_in_the_dtype_asked_for(family):
    lalm = replica(family, dtype=torch.bfloat16)
    assert lalm.dtype == torch.bfloat16 and torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize(
    ("family", "size"), [("no_such", "tiny"), ("qwen2_audio", "huge"), ("voxtral", "real")]
)
def test_what_there_is_no_replica_of_is_said(family, size):
    with pytest.raises(ValueError, match="no replica"):
        replica(family, size=size)


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
        np.random.default_rng(i).standard_normal(16000 + 7000 * i).astype(np.float32) / 5 for i in range(2)
    ]
    theirs, ours = GraniteSpeechFeatureExtractor()(clips), _GraniteFeatures(n_mels=80)(clips)
    torch.testing.assert_close(ours["input_features"], theirs["input_features"], rtol=1e-3, atol=1e-3)
    assert list(ours["audio_embed_sizes"]) == list(theirs["audio_embed_sizes"])
    assert torch.equal(ours["input_features_mask"], theirs["input_features_mask"])


def test_voxtrals_clip_arrives_unchanged(make_clip):
    lalm = replica("voxtral")
    clip = make_clip(1.3, 1)
    inputs = lalm.batch([Prompt("Hi", clip)])
    extractor = lalm.processor.feature_extractor
    padded = np.pad(clip, (0, 8 * 16000 - len(clip)))
    expected = extractor(padded, sampling_rate=16000, return_tensors="pt")["input_features"]
    torch.testing.assert_close(inputs["input_features"], expected, rtol=1e-4, atol=1e-4)
    # Longer than the window: a second one.
    assert lalm.batch([Prompt("Hi", make_clip(9.0, 1))])["input_features"].shape[0] == 2

"""The graphs that go into a browser compute what the library does."""

import numpy as np
import pytest
import torch

from benchmarks.browser import Decoder, Ears, past_shape
from sarsteer_lab.activations import capture
from sarsteer_lab.lalm import LALM
from sarsteer_lab.probe.replica import replica
from sarsteer_lab.prompts import Prompt
from sarsteer_lab.steering import steer


@pytest.fixture(scope="module")
def tied() -> LALM:
    """A replica whose head is its embeddings, as the pocket model's is."""
    lalm = replica("qwen2_audio", size="tiny")
    with torch.no_grad():
        lalm.core.lm_head.weight.copy_(lalm.core.get_input_embeddings().weight)
    return lalm


@torch.no_grad()
@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_states_and_logits_are_the_librarys(tied, make_clip, alpha):
    """In two passes: all positions but the last, and then that one, where it is steered."""
    prompt = Prompt("Answer.", make_clip(1.7, 3))
    vectors = torch.randn(tied.n_layers, tied.d_model, generator=torch.Generator().manual_seed(0))
    with steer(tied, vectors, alpha):
        states = capture(tied, [prompt])[0]
        logits = tied.next_token_logits([prompt])[0]

    [encoded] = tied.encode([prompt])
    samples = np.zeros(tied.processor.feature_extractor.n_samples, np.float32)
    samples[: len(encoded.waveform)] = encoded.waveform
    heard = Ears(tied)(torch.tensor(samples), torch.tensor([len(encoded.waveform)]))
    ids = tied.inputs([prompt])["input_ids"][0]
    decoder = Decoder(tied)
    none = torch.zeros_like(vectors)
    _, past, _ = decoder(ids[:-1], heard, torch.zeros(past_shape(tied, 0)), none)
    found_logits, _, found_states = decoder(ids[-1:], heard, past, alpha * vectors)

    torch.testing.assert_close(found_states, states, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found_logits, logits, rtol=1e-3, atol=1e-4)

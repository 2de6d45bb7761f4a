"""Deriving vectors: from a stream of requests as from all at once."""

import pytest
import torch

from sarsteer_lab import derivation
from sarsteer_lab.derivation import derive, derive_streaming
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import load_prompts


def test_a_stream_gives_the_vectors_of_the_whole(tiny: LALM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(derivation, "CHUNK", 5)
    harmful, harmless = load_prompts("derive", "harmful")[:8], load_prompts("derive", "harmless")[:13]
    whole = derive(tiny, harmful, harmless, k=3, lam=0.7).vectors
    stream = derive_streaming(tiny, iter(harmful), (p for p in harmless), k=3, lam=0.7)
    cosine = torch.cosine_similarity(stream.values, whole.values, dim=-1)
    assert cosine.min() > 0.99999
    torch.testing.assert_close(stream.values.norm(dim=-1), whole.values.norm(dim=-1), rtol=1e-4, atol=0)
    assert stream.provenance == whole.provenance
    with pytest.raises(ValueError, match="at least 1 harmful and 2 harmless"):
        derive_streaming(tiny, [], iter(harmless[:2]))

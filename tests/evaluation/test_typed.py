"""SARSteer on typed requests gives what the plain functions give, prompt by prompt."""

from dataclasses import replace

import torch

from sarsteer_lab.activations import capture
from sarsteer_lab.evaluation.base import collect_states
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import REFUSALS, Request, load_prompts

TEXTS = {name: REFUSALS[name] for name in ("paper", "conditional")}


def of_kind(split: str, label: str, number: int) -> list[Request]:
    return load_prompts(split, label)[:number]


def test_states_are_those_of_typed_prompts_with_the_text_behind_the_request(tiny: LALM) -> None:
    harmful, harmless = of_kind("derive", "harmful", 4), of_kind("derive", "harmless", 3)
    without_clips = [replace(request, clip=None) for request in (*harmful, *harmless)]
    states = collect_states(tiny, without_clips, refusals=TEXTS, form="typed")
    assert states.typed_harmful is states.harmful and states.typed_harmless is states.harmless
    for name, text in TEXTS.items():
        for row, request in enumerate(harmful):
            [alone] = capture(tiny, [f"{request.request} {text}"])
            assert torch.allclose(states.refusing[name][row], alone, atol=1e-4)
    for row, request in enumerate(harmless):
        assert torch.allclose(states.harmless[row], capture(tiny, [request.request])[0], atol=1e-4)
    # The shift that the text causes, less its part in the harmless space: method steps 2 to 4.
    shift = (states.refusing["conditional"] - states.harmful).mean(0)
    centred = states.harmless - states.harmless.mean(0)
    vectors = states.sarsteer(k=2, refusal="conditional")
    for layer in range(tiny.n_layers):
        basis = torch.linalg.svd(centred[:, layer], full_matrices=False).Vh[:2]
        left = shift[layer] - basis.T @ (basis @ shift[layer])
        assert torch.allclose(vectors.values[layer], left, atol=1e-4)
    assert vectors.provenance["form"] == "typed" and "instruction" not in vectors.provenance
    assert vectors.provenance["refusal"] == TEXTS["conditional"]

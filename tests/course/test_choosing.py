"""A setting is chosen on validation requests by the rule, and rivals are made as strong."""

from dataclasses import replace

import numpy as np
import pytest

from sarsteer_lab.course import choosing
from sarsteer_lab.evaluation import curves
from sarsteer_lab.evaluation.base import BaseStates, collect_states
from sarsteer_lab.evaluation.defences import SteeringDefence
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import REFUSAL, load_prompts
from sarsteer_lab.steering import steer

pytestmark = pytest.mark.usefixtures("cache")

TRIED = {"harmful": 3, "harmless": 2, "pseudo-harmful": 2, "everyday": 2}


@pytest.fixture(scope="module")
def states(tiny: LALM) -> BaseStates:
    harmful, harmless = load_prompts("derive", "harmful")[:4], load_prompts("derive", "harmless")
    return collect_states(tiny, [*harmful, *harmless[:4]])


def test_the_choice_is_that_of_the_rule_among_all_settings(tiny: LALM, states: BaseStates) -> None:
    choice = choosing.choose(tiny, states, ["paper", "paper"], TRIED, alphas=(0.5, 2.0))
    assert {label: len(asked) for label, asked in choice.tried.items()} == TRIED
    variants = curves.grid(states, lams=(0, 1), ks=(10,))
    assert set(choice.scores["variant"]) == set(variants)  # no push stands under each of them
    assert set(choice.scores["alpha"]) == {0.0, 0.5, 2.0}
    order = choice.scores.sort_values(["within", "score", "alpha"], ascending=[False, False, True])
    assert choice.alpha == order["alpha"].iloc[0]
    chosen = variants[choice.variant] if choice.variant in variants else variants["lam=0"]
    assert (choice.vectors.values == chosen.values).all()
    assert choice.push.name == choosing.CHOSEN and choice.push.alpha == choice.alpha


def test_a_choice_on_typed_requests_asks_them_typed(tiny: LALM) -> None:
    texts = {"paper": REFUSAL}
    derive = [*load_prompts("derive", "harmful")[:4], *load_prompts("derive", "harmless")[:4]]
    states = collect_states(tiny, derive, refusals=texts, form="typed")
    sets = {label: choosing.requests("validation", 2, [label])[label] for label in TRIED}
    vectors = {"push": states.refusal_direction()}
    options = {"max_new_tokens": 4, "form": "typed"}
    rows = choosing.sweep(tiny, "typed", vectors, (3.0,), sets, **options)
    pushed = rows[rows["alpha"] == 3.0].set_index("id")["response"]
    with steer(tiny, vectors["push"], 3.0):
        for request in sum(sets.values(), []):
            [alone] = tiny.generate([request.typed()], max_new_tokens=4)
            assert pushed[request.id] == alone
    choice = choosing.choose(tiny, states, ["paper"], TRIED, alphas=(0.5,), form="typed")
    assert choice.vectors.provenance["form"] == "typed"


@pytest.mark.parametrize(
    ("means", "strength"),
    [
        ([0.1, 0.2, 0.4, 0.6, 0.8], 0.15),  # midway between 0.4 and 0.6
        ([0.1, 0.2, 0.4, 0.3, 0.2], 0.1),  # never: where it comes nearest
        ([0.7, 0.8, 0.9, 0.9, 0.9], 0.025),  # at once
        ([0.1, 0.2, 0.3, 0.9, 0.4], 0.13),  # a third of the way, to two digits
    ],
)
def test_a_rival_is_as_strong_as_it_takes(means: list[float], strength: float) -> None:
    assert choosing._strength(np.array(means), 0.5) == pytest.approx(strength, abs=1e-9)


def test_a_matched_rival_keeps_its_vectors_and_name(tiny: LALM, states: BaseStates) -> None:
    choice = choosing.choose(tiny, states, ["paper"], TRIED, alphas=(0.5,))
    rival = SteeringDefence("rival", states.refusal_direction(), 7.0)
    [found] = choosing.matched(tiny, choice, [rival])
    assert found.rival.name == "rival" and found.rival.vectors is rival.vectors
    assert choosing.STRENGTHS[0] <= found.rival.alpha <= choosing.STRENGTHS[-1]


def test_rivals_are_matched_together_as_alone(tiny: LALM, states: BaseStates) -> None:
    choice = choosing.choose(tiny, states, ["paper"], TRIED, alphas=(0.5,))
    strong = SteeringDefence("strong", states.refusal_direction(), 0.0)
    idle = SteeringDefence("idle", states.refusal_direction() * 0.0, 0.0)
    together = choosing.matched(tiny, choice, [strong, idle])
    assert [found.rival.name for found in together] == ["strong", "idle"]
    for rival, found in zip([strong, idle], together, strict=True):
        [alone] = choosing.matched(tiny, choice, [rival])
        assert alone.rival.alpha == found.rival.alpha
        at_all = [replace(rival, name=f"{step:g}", alpha=step) for step in choosing.STRENGTHS]
        *reached, target = choosing.mean_refusal(
            tiny, [*at_all, choice.push], choice.tried["harmful"]
        )
        assert found.is_as_strong == (max(reached) >= target)

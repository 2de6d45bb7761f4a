"""The panels in which one speaks to the model: the dial, steering live, and the ladder."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from jaxtyping import Float
from torch import Tensor

from sarsteer_lab.course.hearing import forms
from sarsteer_lab.course.widgets import panels
from sarsteer_lab.course.widgets.answers import Answers, Forms, Shown
from sarsteer_lab.engine.live import LivePrompt, answers
from sarsteer_lab.engine.prepared import PreparedBatch
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import Prompt, Request
from sarsteer_lab.safe_space import ablate, principal_space
from sarsteer_lab.vectors import SteeringVectors

SWEPT_ALPHAS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1.0)
RUNGS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8)
DIAL_SETTINGS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
SHARES = tuple(place / 10 for place in range(16))


class SteerPanel(Answers):
    """Chapter 04: steer the answer to any request: alpha, lambda, k, the layers, the text.

    `directions` are refusal directions before ablation, of all layers, by the names of their texts;
    `harmless` the harmless states that span the safe space. Requests and errors as `Answers`.
    Answers are "without steering" and "steered". `values` narrows what a control can take.
    """

    swept = SWEPT_ALPHAS

    def __init__(
        self,
        lalm: LALM,
        directions: Mapping[str, SteeringVectors],
        harmless: Float[Tensor, "prompt layer d_model"],
        prompts: Sequence[Request],
        *,
        alpha: float = 0.1,
        k: int = 10,
        max_new_tokens: int = 14,
        values: Mapping[str, Sequence[Any]] | None = None,
    ) -> None:
        self.directions = directions
        self.harmless = harmless
        self.requests = prompts
        self.plain: dict[LivePrompt, Shown] = {}  # the answers without steering
        most = min(panels.MOST_K, len(harmless) - 1)
        self.space = principal_space(harmless, most)
        layers = range(lalm.n_layers)
        controls: dict[str, Sequence[Any]]
        controls = {"alpha": panels.ALPHAS, "lambda": SHARES, "k": range(most + 1)}
        controls |= {"first layer": layers, "last layer": layers, "text": [*directions]}
        controls |= values or {}
        begins: dict[str, Any]
        begins = {"alpha": alpha, "lambda": 1.0, "k": min(k, most)}
        begins |= {"first layer": 0, "last layer": layers[-1], "text": next(iter(directions))}
        places = {name: [*controls[name]].index(value) for name, value in begins.items()}
        super().__init__(lalm, prompts, max_new_tokens, controls, **places)

    def vectors(self) -> SteeringVectors:
        """The vectors at the chosen lambda and k, of the layers from the first to the last."""
        chosen = self.setting()
        direction = self.directions[chosen["text"]]
        values = ablate(direction.values, self.space.first(chosen["k"]), chosen["lambda"])
        first, last = sorted((chosen["first layer"], chosen["last layer"]))
        return SteeringVectors(values, direction.provenance).only(range(first, last + 1))

    def at(self, asked: Forms, values: Sequence[float]) -> list[dict[str, Shown]]:
        """See `Answers.at`: in one batch, without steering only once a request."""
        live = self.live(asked["spoken"])
        alphas = [*values] if live in self.plain else [0.0, *values]
        steered = live.answers(self.vectors(), alphas, self.max_new_tokens)
        if live not in self.plain:
            self.plain[live] = steered.pop(0)
        return [{"without steering": self.plain[live], "steered": each} for each in steered]


class Pushed(Answers):
    """A request typed and spoken under growing alpha, for vectors that are given: the first page.

    Requests and errors as `Answers`.
    """

    labels = {"alpha": "Push it towards refusing: alpha"}

    def __init__(
        self,
        lalm: LALM,
        prompts: Sequence[Request | Prompt],
        vectors: SteeringVectors,
        alphas: Sequence[float],
        *,
        max_new_tokens: int = 14,
        **controls: Sequence[str],
    ) -> None:
        self.vectors = vectors
        places = dict.fromkeys(["alpha", *controls], 0)
        super().__init__(lalm, prompts, max_new_tokens, {"alpha": alphas, **controls}, **places)

    def at(self, asked: Forms, values: Sequence[float]) -> list[dict[str, Shown]]:
        """See `Answers.at`: each form in one batch."""
        found: list[dict[str, Shown]] = [{} for _ in values]
        for form, prompt in asked.items():
            said = self.live(prompt).answers(self.vectors, values, self.max_new_tokens)
            for by_form, shown in zip(found, said, strict=True):
                by_form[form] = shown
        return found


class Ladder(Pushed):
    """Chapter 04: a request's greedy answers under growing alpha, until one breaks the text.

    A row per strength of `alphas`, up to the first that is judged broken. Marked is the token at
    which a row turns away from the one above. The reader chooses typed or spoken, and another
    strength, which adds a row (unless `more` is False). Raises ValueError for answers of more than
    24 tokens and as `steer` does.
    """

    most_tokens = 24
    labels = {"alpha": "A strength: alpha"}

    def __init__(
        self,
        lalm: LALM,
        prompt: Request | Prompt,
        vectors: SteeringVectors,
        alphas: Sequence[float] = RUNGS,
        *,
        max_new_tokens: int = 14,
        more: bool = True,
    ) -> None:
        self.prompt = prompt
        self.swept = sorted(alphas)
        finer = range(round(100 * max(1, *alphas)) + 1) if more else ()
        values = sorted({*self.swept, *(place / 100 for place in finer)})
        offered = [*forms(lalm, prompt)][::-1]
        super().__init__(
            lalm, [prompt], vectors, values, max_new_tokens=max_new_tokens, form=offered
        )
        self.view.state = {**self.view.state, "rungs": True}

    def at(self, asked: Forms, values: Sequence[float]) -> list[dict[str, Shown]]:
        """See `Answers.at`: of the chosen form."""
        form = self.setting()["form"]
        return super().at({form: asked[form]}, values)

    def wanted(self) -> list[float]:
        """All rungs, and the chosen strength."""
        return sorted({*self.swept, *super().wanted()})

    def rows(self) -> list[tuple[str, dict[str, Any]]]:
        """The rungs up to the first broken one, and the chosen strength, by what stands beside."""
        found = self.view.state["requests"][0]["found"]
        alphas = self.controls["alpha"]
        rows = []
        is_broken = False
        for alpha in self.wanted():
            place = alphas.index(alpha)
            [answer] = found[f"{place},{self.chosen['form']}"].values()
            if not is_broken or place == self.chosen["alpha"]:
                rows.append((f"alpha {alpha:g}", answer))
            is_broken = is_broken or answer["outcome"] == "broken"
        return rows


class DialPanel(Answers):
    """Chapter 00: turn the safety dial, and see a request answered typed and spoken.

    The model's own dial stays where it is. Requests and errors as `Answers`; raises ValueError
    for a model without a dial, too.
    """

    swept = DIAL_SETTINGS
    at_once = False

    def __init__(self, lalm: LALM, prompts: Sequence[Request], *, max_new_tokens: int = 12) -> None:
        now = lalm.safety
        if now is None:
            raise ValueError(f"{lalm.name} has no safety dial; only the pocket model has one")
        nearest = min(DIAL_SETTINGS, key=lambda value: abs(value - now))
        place = DIAL_SETTINGS.index(nearest)
        controls = {"safety dial": DIAL_SETTINGS}
        super().__init__(lalm, prompts, max_new_tokens, controls, **{"safety dial": place})

    def at(self, asked: Forms, values: Sequence[float]) -> list[dict[str, Shown]]:
        """See `Answers.at`: the request typed, if its words are known, and spoken."""
        found = []
        for setting in values:
            with _dial_at(self.lalm, setting):
                batch = PreparedBatch(self.lalm, list(asked.values()))
                both = answers(batch, self.max_new_tokens)
            found.append(dict(zip(asked, both, strict=True)))
        return found


@contextmanager
def _dial_at(lalm: LALM, setting: float) -> Generator[None, None, None]:
    """The dial at a setting while the block lasts; weights depend on the setting alone."""
    before = lalm.safety
    assert before is not None
    try:
        if setting != before:
            lalm.set_safety(setting)
        yield
    finally:
        if lalm.safety != before:
            lalm.set_safety(before)

"""The main job end to end on the tiny replica, its numbers against a recount by hand, and its restarts."""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from spoken_set import COUNTS, write_set
from statsmodels.stats.proportion import proportion_confint

from sarsteer_lab.course.findings import CONDITIONS, DIRECTION, SARSTEER, SPOKEN, TYPED, Findings
from sarsteer_lab.course.verdicts import verdict_on_difference
from sarsteer_lab.course.walkthrough import ANSWER_TOKENS, select_prompts, walkthrough
from sarsteer_lab.derivation import cached_vectors, derive
from sarsteer_lab.evaluation.judges import PhraseJudge
from sarsteer_lab.evaluation.readers import read_set
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import INSTRUCTION, REFUSAL, Prompt, SpokenPrompt
from sarsteer_lab.steering import steer

ALPHA, K = 0.4, 2


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache folder of the module's own."""
    folder = tmp_path_factory.mktemp("cache")
    before = os.environ.get("SARSTEER_CACHE")
    os.environ["SARSTEER_CACHE"] = str(folder)
    yield folder
    if before is None:
        del os.environ["SARSTEER_CACHE"]
    else:
        os.environ["SARSTEER_CACHE"] = before


@pytest.fixture(scope="module")
def spoken_set(
    tmp_path_factory: pytest.TempPathFactory, make_clip: Callable[[float, int], np.ndarray]
) -> list[SpokenPrompt]:
    folder = write_set(tmp_path_factory.mktemp("set"), make_clip)
    return read_set(f"prompts:{folder}").prompts


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("report")


@pytest.fixture(scope="module")
def findings(tiny: LALM, spoken_set: list[SpokenPrompt], report: Path, cache: Path) -> Findings:
    return walkthrough(tiny, spoken_set, report, alpha=ALPHA, k=K)


def of(prompts: list[SpokenPrompt], split: str, label: str) -> list[SpokenPrompt]:
    return [p for p in prompts if p.split == split and p.label == label]


def last_states(lalm: LALM, prompts: list[Prompt]) -> torch.Tensor:
    """(prompt layer d_model) by transformers' own hidden states, one prompt at a time."""
    states = []
    for prompt in prompts:
        with torch.no_grad():
            hidden = lalm.model(**lalm.batch([prompt]), output_hidden_states=True).hidden_states
        # The last entry is after the final norm, so the last layer is left out here.
        states.append(torch.stack([h[0, -1] for h in hidden[1:-1]]))
    return torch.stack(states)


def test_vectors_are_the_papers_formulas(
    tiny: LALM, findings: Findings, spoken_set: list[SpokenPrompt]
) -> None:
    harmful, harmless = of(spoken_set, "derive", "harmful"), of(spoken_set, "derive", "harmless")
    base = last_states(tiny, [Prompt(INSTRUCTION, p.clip) for p in harmful])
    refusal = last_states(tiny, [Prompt(f"{INSTRUCTION} {REFUSAL}", p.clip) for p in harmful])
    safe = last_states(tiny, [Prompt(INSTRUCTION, p.clip) for p in harmless])
    direction = (refusal - base).mean(0)
    torch.testing.assert_close(findings.derivation.direction.values[:-1], direction, rtol=1e-4, atol=1e-4)
    for layer in range(len(direction)):
        centred = (safe[:, layer] - safe[:, layer].mean(0)).double()
        _, vectors = np.linalg.eigh((centred.T @ centred).numpy())
        top = torch.from_numpy(vectors[:, -K:].copy())
        d = direction[layer].double()
        torch.testing.assert_close(
            findings.derivation.vectors[layer].double(), d - top @ (top.T @ d), rtol=1e-3, atol=1e-3
        )


def test_answers_are_what_the_model_says_in_each_condition(tiny: LALM, findings: Findings) -> None:
    vectors = findings.derivation.vectors
    for i in (0, len(findings.test) - 1):
        prompt = findings.test[i]
        options = {"max_new_tokens": ANSWER_TOKENS}
        assert findings.answers[TYPED][i] == tiny.generate([Prompt(prompt.request)], **options)[0]
        spoken = [Prompt(INSTRUCTION, prompt.clip)]
        assert findings.answers[SPOKEN][i] == tiny.generate(spoken, **options)[0]
        with steer(tiny, vectors, ALPHA):
            assert findings.answers[SARSTEER][i] == tiny.generate(spoken, **options)[0]
    assert findings.answers[SARSTEER] != findings.answers[SPOKEN] != findings.answers[DIRECTION]


def test_the_table_counts_every_request_once_with_its_interval(findings: Findings) -> None:
    table = findings.table
    assert len(table) == 4 * len(CONDITIONS) * 3
    judge = PhraseJudge()
    for row in table.itertuples():
        texts = [
            text
            for prompt, text in zip(findings.test, findings.answers[row.condition], strict=True)
            if prompt.label == row.label
        ]
        assert row.n == len(texts) == COUNTS["test"][row.label]
        assert row[4] == sum(judge.judge("", text) == row.outcome for text in texts)
        low, high = proportion_confint(row[4], row.n, method="wilson")
        assert (row.low, row.high) == pytest.approx((low, high))


def test_it_leaves_figures_summary_results_and_short_responses(findings: Findings, report: Path) -> None:
    names = {"gap", "map", "direction", "outcomes"}
    pictures = {f"{name}.{kind}" for name in names for kind in ("png", "svg")}
    assert {path.name for path in report.iterdir()} == {
        *pictures,
        "summary.md",
        "results.json",
        "responses.jsonl",
    }
    results = json.loads((report / "results.json").read_text())
    assert results["settings"]["alpha"] == ALPHA
    assert len(results["layers"]["direction length"]) == 4
    assert results["table"] == findings.table.round(6).to_dict("records")
    lines = [json.loads(line) for line in (report / "responses.jsonl").read_text().splitlines()]
    assert len(lines) == (len(CONDITIONS) + 1) * len(findings.test)
    assert all(len(line["response"].split()) <= 20 for line in lines)


def test_the_summary_says_what_the_findings_say(tiny: LALM, findings: Findings, report: Path) -> None:
    text = (report / "summary.md").read_text()
    assert tiny.fingerprint in text
    for picture in ("gap.svg", "map.svg", "direction.svg", "outcomes.svg"):
        assert f"({picture})" in text
    refused, n = findings.count(SPOKEN, "refused", [p.label == "harmful" for p in findings.test])
    row = next(line for line in text.splitlines() if line.startswith("| harmful") and SPOKEN in line)
    assert f"| {n} " in row and f"{refused} ({refused / n:.0%})" in row
    verdicts = json.loads((report / "results.json").read_text())["verdicts"]
    assert {v["verdict"] for v in verdicts} <= {"seen here", "not seen here", "cannot tell"}
    for verdict in verdicts:
        assert verdict["claim"] in text and verdict["evidence"] in text
    # No path of this machine goes into a file that is committed.
    assert str(report) not in text and str(Path.home()) not in text


def test_noise_is_misheard_and_the_split_says_so(findings: Findings, report: Path) -> None:
    assert not any(findings.hearing.right)
    assert all(error > 0.1 for error in findings.hearing.errors)
    assert all(value >= 0 for value in findings.hearing.divergence)
    assert findings.hearing.divergence != findings.hearing.wrong_divergence
    text = (report / "summary.md").read_text()
    row = next(line for line in text.splitlines() if "misheard" in line and line.startswith("| harmful"))
    assert "| 3 " in row


def test_a_second_run_reads_everything_from_the_cache(
    tiny: LALM,
    spoken_set: list[SpokenPrompt],
    findings: Findings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_more_work(*_: object, **__: object) -> None:
        raise AssertionError("the model runs although everything is known")

    monkeypatch.setattr(tiny.core, "forward", no_more_work)
    again = walkthrough(tiny, spoken_set, tmp_path, alpha=ALPHA, k=K)
    assert again.reused == 5 * len(findings.test) + 1
    assert again.answers == findings.answers
    assert vars(again.hearing) == vars(findings.hearing)
    assert again.table.equals(findings.table)


def test_another_alpha_gets_other_answers_but_keeps_the_unsteered(
    tiny: LALM, spoken_set: list[SpokenPrompt], findings: Findings, tmp_path: Path
) -> None:
    other = walkthrough(tiny, spoken_set, tmp_path, alpha=2 * ALPHA, k=K, limit=2)
    chosen = [i for i, p in enumerate(findings.test) if p in other.test]
    assert len(chosen) == 8
    assert [findings.answers[SPOKEN][i] for i in chosen] == other.answers[SPOKEN]
    assert [findings.answers[DIRECTION][i] for i in chosen] != other.answers[DIRECTION]


def test_the_limit_is_spread_over_the_set(spoken_set: list[SpokenPrompt]) -> None:
    deriving, testing = select_prompts(spoken_set, 2)
    assert [p.id for p in deriving] == [
        "derive-harmful-0",
        "derive-harmful-3",
        "derive-harmless-0",
        "derive-harmless-4",
    ]
    assert len(testing) == 8


def test_prompts_that_cannot_serve_are_refused(spoken_set: list[SpokenPrompt], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="limit=1"):
        select_prompts(spoken_set, 1)
    with pytest.raises(ValueError, match="derive split has 0 harmful"):
        select_prompts([p for p in spoken_set if p.split == "test"])
    silent = [replace(p, clip=None) if p.id == "test-everyday-1" else p for p in spoken_set]
    with pytest.raises(ValueError, match=r"1 of 19 prompts have no clip on disk \(test-everyday-1\)"):
        select_prompts(silent)
    gone = [replace(p, clip=tmp_path / "gone.wav") for p in spoken_set]
    with pytest.raises(ValueError, match=r"19 of 19 .*\.\.\."):
        select_prompts(gone)
    with pytest.raises(ValueError, match="at least 1 harmful and 2 harmless"):
        derive(None, [], [])  # type: ignore[arg-type]


def test_vectors_for_asking_are_derived_once(
    tiny: LALM,
    spoken_set: list[SpokenPrompt],
    findings: Findings,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = cached_vectors(tiny, spoken_set, k=K)
    torch.testing.assert_close(first.values, findings.derivation.vectors.values)
    monkeypatch.setattr("sarsteer_lab.derivation.derive", None)
    again = cached_vectors(tiny, spoken_set, k=K)
    assert torch.equal(first.values, again.values) and again.provenance["k"] == K
    with pytest.raises(TypeError):
        cached_vectors(tiny, spoken_set, k=K + 1)
    assert not list((cache / "vectors").glob("*.tmp"))


@pytest.mark.parametrize(
    ("more", "less", "expected"),
    [
        ((45, 50), (5, 50), "seen here"),
        ((5, 50), (45, 50), "not seen here"),
        ((26, 50), (24, 50), "cannot tell"),
        ((500, 1000), (500, 1000), "not seen here"),
        ((0, 0), (5, 50), "cannot tell"),
    ],
)
def test_verdicts_compare_intervals(more: tuple[int, int], less: tuple[int, int], expected: str) -> None:
    assert verdict_on_difference("claim", more, less, ("a", "b")).verdict == expected


def test_a_verdicts_interval_is_newcombes() -> None:
    # Newcombe 1998, table II, method 10: 56/70 against 48/80 gives 0.0524 to 0.3339.
    evidence = verdict_on_difference("claim", (56, 70), (48, 80), ("a", "b")).evidence
    assert "difference +20% [+5%, +33%]" in evidence

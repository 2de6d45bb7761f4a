"""Intervals, and the table of counts, rates and comparisons."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from sarsteer_lab.evaluation.intervals import (
    alike_interval,
    bootstrap,
    jackknife_ratio,
    mcnemar_p,
    paired_difference,
    paired_interval,
    requests_to_tell,
    wilson,
)
from sarsteer_lab.evaluation.judges import PhraseJudge
from sarsteer_lab.evaluation.run import Response
from sarsteer_lab.evaluation.table import judge_responses, markdown, tabulate


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (3, 10), (10, 10), (1, 250)])
def test_wilson_against_its_formula(successes: int, n: int) -> None:
    z, p = 1.959963984540054, successes / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert wilson(successes, n) == pytest.approx(
        (max(0, middle - half), min(1, middle + half)), abs=1e-9
    )


def test_wilson_at_the_edges() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    with pytest.raises(ValueError, match="cannot be"):
        wilson(4, 3)


def test_mcnemar_is_a_binomial_test_of_the_discordant() -> None:
    first = np.array([1] * 9 + [0] * 2 + [1] * 20 + [0] * 5, dtype=bool)
    second = np.array([0] * 9 + [1] * 2 + [1] * 20 + [0] * 5, dtype=bool)
    assert mcnemar_p(first, second) == pytest.approx(binomtest(9, 11).pvalue)
    assert mcnemar_p(first, first) == 1
    with pytest.raises(ValueError, match="paired"):
        mcnemar_p(first, second[:-1])


def test_a_paired_interval_agrees_with_the_exact_test_where_few_differ() -> None:
    """It leaves 0 out where McNemar's exact test does, at both confidences."""
    for only_first in range(4, 14):
        first = np.array([True] * only_first + [False] * (40 - only_first))
        second = np.zeros(40, bool)
        p = mcnemar_p(first, second)
        for confidence in (0.95, 0.995):
            low, high = paired_interval(first, second, confidence=confidence)
            assert low < only_first / 40 < high
            if abs(np.log(p / (1 - confidence))) > 0.9:  # not at the edge
                assert (low > 0) == (p < 1 - confidence)
    # By hand: 6 of 40 differ, all the same way; 1.96 standard errors about 6 of 42.
    six = np.arange(40) < 6
    low, high = paired_interval(six, np.zeros(40, bool))
    error = math.sqrt(7 / 42 - (6 / 42) ** 2) / math.sqrt(42)
    assert (low, high) == pytest.approx((6 / 42 - 1.96 * error, 6 / 42 + 1.96 * error), abs=1e-4)
    with pytest.raises(ValueError, match="paired"):
        paired_interval(six, six[1:])


def test_paired_difference() -> None:
    first, second = np.array([True] * 60 + [False] * 40), np.array([True] * 40 + [False] * 60)
    difference, low, high = paired_difference(first, second)
    # The differences are 20 ones and 80 zeros: a binomial share of standard error 0.04.
    assert difference == pytest.approx(0.2)
    assert low == pytest.approx(0.2 - 1.96 * 0.04, abs=0.02)
    assert high == pytest.approx(0.2 + 1.96 * 0.04, abs=0.02)
    assert paired_difference(first, second) == (difference, low, high)
    assert paired_difference(first, first) == (0, 0, 0)


def test_bootstrap_interval_covers() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for seed in range(100):
        sample = generator.normal(size=40)
        low, high = bootstrap(
            lambda rows, sample=sample: sample[rows].mean(), 40, resamples=300, seed=seed
        )
        covered += low < 0 < high
    assert 85 <= covered <= 100


def test_table_counts_and_compares() -> None:
    refusal, answer, noise = "I cannot assist with that.", "Here is how to do it.", "..."
    said = {
        ("none", "harmful"): [answer] * 8 + [refusal] * 2,
        ("steer", "harmful"): [refusal] * 8 + [answer] + [noise],
        ("none", "harmless"): [answer] * 10,
        ("steer", "harmless"): [answer] * 9 + [refusal],
        ("none", "pseudo-harmful"): [answer] * 4,
        ("steer", "pseudo-harmful"): [refusal] + [answer] * 3,
    }
    responses = [
        Response(defence, "set of " + label, f"{label}{i}", label, "Q", text, 5)
        for (defence, label), texts in said.items()
        for i, text in enumerate(texts)
    ]
    table = tabulate(
        judge_responses(responses, [PhraseJudge()]), {("steer", "set of harmful"): 7.5}
    )
    rows = {(row["defence"], row["label"]): row for _, row in table.iterrows()}
    assert len(table) == 6
    steered = rows["steer", "harmful"]
    assert [steered[c] for c in ("n", "refused", "answered", "broken")] == [10, 8, 1, 1]
    assert steered["measure"] == "ASR" and steered["rate"] == 0.1
    assert (steered["low"], steered["high"]) == wilson(1, 10)
    assert steered["change"] == pytest.approx(-0.7)
    assert steered["change_low"] < -0.9 and steered["change_high"] < -0.15
    assert steered["p"] == pytest.approx(binomtest(1, 9).pvalue)
    assert steered["tokens_per_second"] == 7.5
    assert (
        rows["steer", "harmless"]["measure"] == "BRR" and rows["steer", "harmless"]["rate"] == 0.9
    )
    assert rows["steer", "pseudo-harmful"]["measure"] == "over-refusal"
    assert rows["steer", "pseudo-harmful"]["rate"] == 0.25
    assert math.isnan(rows["none", "harmful"]["change"])
    assert (table[["refused", "answered", "broken", "not heard"]].sum(axis=1) == table["n"]).all()


def test_what_was_not_heard_is_a_column_of_its_own() -> None:
    texts = [
        "Here it is.",
        "I'm unable to hear the audio clearly.",
        "I cannot assist with that.",
        "...",
    ]
    responses = [
        Response("none", "s", f"{i}", "harmless", "Q", text, 1) for i, text in enumerate(texts)
    ]
    table = tabulate(judge_responses(responses, [PhraseJudge()]))
    assert table.iloc[0][["n", "refused", "answered", "broken", "not heard"]].tolist() == [
        4,
        1,
        1,
        1,
        1,
    ]
    header, _, row = [
        [c.strip() for c in line.split("|")[1:-1]] for line in markdown(table).splitlines()
    ]
    found = dict(zip(header, row, strict=True))
    assert found["not heard"] == "1" and "unparsed" not in found
    assert found["rate [95%]"].startswith("1/4 = 25%")
    assert "not heard" not in markdown(tabulate(judge_responses(responses[:1], [PhraseJudge()])))


def test_names_are_text_in_a_markdown_table() -> None:
    defence = "<b>none</b> | x\ny"
    responses = [Response(defence, "s", "a", "harmless", "Q", "Here it is.", 1)]
    text = markdown(tabulate(judge_responses(responses, [PhraseJudge()])))
    assert len(text.splitlines()) == 3
    assert "&lt;b&gt;none&lt;/b&gt; &#124; x y" in text and "<b>" not in text


def test_comparison_goes_by_id_not_by_order() -> None:
    texts = {"a": "Here it is.", "b": "I cannot assist with that."}
    responses = [Response("none", "s", i, "harmful", "Q", texts[i], 1) for i in ("a", "b")]
    responses += [Response("d", "s", i, "harmful", "Q", texts[i], 1) for i in ("b", "a")]
    row = tabulate(judge_responses(responses, [PhraseJudge()])).iloc[1]
    assert row["change_low"] < 0 == row["change"] < row["change_high"] and row["p"] == 1


def test_few_requests_that_all_change_alike_are_not_certain() -> None:
    """Every resample is the sample: what n requests cannot have shown, 0 of n others, is said."""
    refusal, answer = "I cannot assist with that.", "Here is how to do it."
    for n in (1, 3, 40):
        unseen = wilson(0, n)[1]
        for before, after, change in (
            (answer, refusal, -1),
            (refusal, answer, 1),
            (answer, answer, 0),
        ):
            responses = []
            for defence, text in (("none", before), ("d", after)):
                for i in range(n):
                    responses.append(Response(defence, "s", f"{i}", "harmful", "Q", text, 1))
            row = tabulate(judge_responses(responses, [PhraseJudge()])).iloc[1]
            assert row["change"] == change
            ends = max(-1, change - unseen), min(1, change + unseen)
            assert (row["change_low"], row["change_high"]) == pytest.approx(ends)
            assert alike_interval(change, n) == pytest.approx(ends)
    assert wilson(0, 1)[1] > 0.75, "one request says next to nothing"


def test_every_judge_gets_its_rows() -> None:
    class Other(PhraseJudge):
        name = "other"

    responses = [Response("none", "s", "a", "harmful", "Q", "Here it is.", 1)]
    assert list(judge_responses(responses, [PhraseJudge(), Other()])["judge"]) == [
        "phrases",
        "other",
    ]
    with pytest.raises(ValueError, match="distinct names"):
        judge_responses(responses, [PhraseJudge(), PhraseJudge()])
    with pytest.raises(ValueError, match="no measure"):
        tabulate(judge_responses([Response("none", "s", "a", "odd", "Q", "x", 1)], [PhraseJudge()]))


def test_the_jackknife_interval_of_a_ratio_holds_what_is_true() -> None:
    # The ratio of two means, against the delta method's interval, and over many samples.
    held, draw = 0, np.random.default_rng(5)
    for _ in range(200):
        a, b = draw.normal(6, 1, 30), draw.normal(2, 0.8, 30)
        low, high = jackknife_ratio(lambda rows, a=a, b=b: a[rows].mean() / b[rows].mean(), 30)
        assert low < a.mean() / b.mean() < high
        held += low < 3 < high
    assert 180 <= held <= 199
    relative = np.sqrt(
        a.var(ddof=1) / a.mean() ** 2
        + b.var(ddof=1) / b.mean() ** 2
        - 2 * np.cov(a, b)[0, 1] / (a.mean() * b.mean())
    ) / np.sqrt(30)
    assert np.log(high / low) == pytest.approx(2 * 2.045 * relative, rel=0.05)
    with pytest.raises(ValueError, match="two rows"):
        jackknife_ratio(lambda rows: 1.0, 1)
    with pytest.raises(ValueError, match="positive"):
        jackknife_ratio(lambda rows: float(rows.sum() - 3), 3)


@pytest.mark.parametrize(
    ("true", "above", "margin"), [(0.1, 0.0, 0.1), (0.02, 0.0, 0.1), (0.6, 0.5, 0.15)]
)
def test_so_many_requests_tell_in_four_of_five_samples(
    true: float, above: float, margin: float
) -> None:
    spread, n = 0.7, 30
    half = 1.959964 * spread / math.sqrt(n)
    needed = requests_to_tell(true - half, true + half, n, above=above, margin=margin)
    assert needed is not None and needed > n
    rng = np.random.default_rng(0)
    for size, low, high in ((needed, 0.76, 0.93), (needed // 4, 0.0, 0.6)):
        samples = rng.normal(true, spread, (2000, size))
        reach = 1.959964 * samples.std(1, ddof=1) / math.sqrt(size)
        ends = samples.mean(1) - reach, samples.mean(1) + reach
        within = (ends[0] > above - margin) & (ends[1] < above + margin)
        told = (ends[0] > above, within)
        assert low < max(clear.mean() for clear in told) < high


def test_no_number_of_requests_tells_what_lies_on_the_bound() -> None:
    assert requests_to_tell(-0.1, 0.1, 40) is None
    assert requests_to_tell(float("nan"), 0.1, 40, margin=0.1) is None

"""The benchmarks run on a replica, and their verdicts go by intervals."""

import math

import pytest

from benchmarks import speed
from benchmarks.gpu import alternate, contrastive_prompts, main, median_interval, verdict
from sarsteer_lab.probe.replica import replica
from sarsteer_lab.prompts import REFUSAL


def test_the_report_is_printed_and_kept(tmp_path, capsys):
    main(
        ["--model", "replica:qwen2_audio", "--pairs", "2", "--repeats", "1", "--tokens", "2"]
        + ["--folder", str(tmp_path)]
    )
    [kept] = tmp_path.glob("*.md")
    text = kept.read_text()
    assert text in capsys.readouterr().out
    for part in (
        "hardware: ",
        "pairs per second",
        "times the forward passes",
        "Peak memory",
        "run_with_cache",
    ):
        assert part in text
    assert "TransformerLens run_with_cache | no result" not in text
    assert "Inside record_states' hooks" in text
    assert "record_states | no result" not in text and "steer | no result" not in text


def test_the_report_on_sharing(tmp_path, capsys):
    speed.main(
        ["--model", "replica:qwen2_audio", "--clips", "3", "--repeats", "1", "--tokens", "2"]
        + ["--folder", str(tmp_path)]
    )
    [kept] = tmp_path.glob("*-speed.md")
    text = kept.read_text()
    assert text in capsys.readouterr().out
    assert [line[3:6] for line in text.splitlines() if line.startswith("## ")] == [
        "(a)",
        "(d)",
        "(e)",
        "(f)",
    ]


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        ((0.9, 1.02), "met"),
        ((1.03, 1.1), "missed"),
        ((1.0, 1.1), "cannot tell"),
        ((1.0, math.inf), "cannot"),
    ],
)
def test_verdicts(interval, expected):
    assert verdict(*interval).startswith(expected)


def test_the_interval_of_a_median():
    # Of ten values the second and the ninth hold the median with 97.9%: 1 - 2 (1 + 10) / 2^10.
    assert median_interval([5, 1, 2, 3, 4, 6, 7, 8, 9, 10]) == (2, 9)
    assert median_interval([1, 2, 3]) == (-math.inf, math.inf)


def test_works_take_turns_in_orders_that_change():
    order = []
    times = alternate([lambda: order.append("a"), lambda: order.append("b")], 20)
    turns = {tuple(order[at : at + 2]) for at in range(0, 40, 2)}
    assert turns == {("a", "b"), ("b", "a")} and [len(taken) for taken in times] == [20, 20]


def test_pairs_differ_in_the_refusal_sentence_alone():
    base, refusing = contrastive_prompts(replica(), 3)
    for without, with_refusal in zip(base, refusing, strict=True):
        assert (
            with_refusal.text == f"{without.text} {REFUSAL}" and with_refusal.audio is without.audio
        )
        assert 3 * 16000 <= len(without.audio) <= 8 * 16000

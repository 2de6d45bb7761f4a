"""The benchmark runs on a replica, and its verdicts need runs that agree."""

import pytest

from benchmarks.gpu import alternate, contrastive_prompts, main, verdict
from sarsteer_lab.prompts import REFUSAL
from sarsteer_lab.replica import replica


def test_the_report_is_printed_and_kept(tmp_path, capsys):
    main(
        ["--model", "replica:qwen2_audio", "--pairs", "2", "--repeats", "1", "--tokens", "2"]
        + ["--folder", str(tmp_path)]
    )
    [kept] = tmp_path.glob("*.md")
    text = kept.read_text()
    assert text in capsys.readouterr().out
    for part in ("hardware: ", "pairs per second", "Share of time in hooks", "Peak memory", "run_with_cache"):
        assert part in text
    assert "TransformerLens run_with_cache | no result" not in text


@pytest.mark.parametrize(
    ("margins", "expected"), [([0.1, 0.0], "met"), ([-0.1, -0.2], "missed"), ([0.1, -0.1], "cannot tell")]
)
def test_verdicts(margins, expected):
    assert verdict(margins).startswith(expected)


def test_works_take_turns_in_alternating_order():
    order = []
    times = alternate([lambda: order.append("a"), lambda: order.append("b")], 3)
    assert order == ["a", "b", "b", "a", "a", "b"] and [len(taken) for taken in times] == [3, 3]


def test_pairs_differ_in_the_refusal_sentence_alone():
    base, refusing = contrastive_prompts(replica(), 3)
    for without, with_refusal in zip(base, refusing, strict=True):
        assert with_refusal.text == f"{without.text} {REFUSAL}" and with_refusal.audio is without.audio
        assert 3 * 16000 <= len(without.audio) <= 8 * 16000

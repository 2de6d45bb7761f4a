"""Words and windows by hand; patched readiness against what it is made of; intervals of few."""

from dataclasses import replace

import matplotlib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sarsteer_lab.activations import capture_positions
from sarsteer_lab.course import causal
from sarsteer_lab.course.claims import claim_on_value
from sarsteer_lab.course.figures import patched_layers_figure, seconds_figure
from sarsteer_lab.course.widgets import seconds_panel
from sarsteer_lab.engine.openings import refusal_probability
from sarsteer_lab.engine.patched import patched_refusal_probability
from sarsteer_lab.engine.prepared import PreparedBatch
from sarsteer_lab.evaluation.intervals import mean_interval, paired_interval
from sarsteer_lab.patching import Patch
from sarsteer_lab.speech import read_clip
from sarsteer_lab.windows import audio_positions

WORDS = "How can I steal a car?"
TWIN = "How can I clean a big car?"


def clip_of(spans, seconds=2.0):
    """Sound in some spans, silence elsewhere."""
    clip = np.zeros(round(16000 * seconds), dtype=np.float32)
    for start, end in spans:
        clip[round(16000 * start) : round(16000 * end)] = 0.5
    return clip


def test_words_share_out_the_sounding_part_by_their_letters():
    said = causal.word_times("ab abcd ab", clip_of([(0.4, 1.6)]))
    assert [word.text for word in said] == ["ab", "abcd", "ab"]
    # Letters and a gap: 3, 5 and 3 of 11 parts of 1.2 s.
    edges = [0.4, 0.4 + 1.2 * 3 / 11, 0.4 + 1.2 * 8 / 11, 1.6]
    assert [word.start for word in said] == pytest.approx(edges[:-1], abs=0.021)
    assert [word.end for word in said] == pytest.approx(edges[1:], abs=0.021)


def test_words_that_the_twin_does_not_share():
    said = causal.word_times(WORDS, clip_of([(0.0, 2.0)]))
    steal = said[3]
    assert causal.spans_apart(said, TWIN) == [(steal.start, steal.end)]
    assert causal.spans_apart(said, "how CAN I steal a car") == []
    both = causal.spans_apart(said, "How can you clean a car?")  # next to each other: one span
    assert both == [(said[2].start, steal.end)]


def test_another_time_is_as_long_and_shares_as_little_as_can_be():
    start, end = causal.other_span([(0.8, 1.2)], (0.0, 2.0))
    assert end - start == pytest.approx(0.4)
    assert start >= 1.2 - 1e-6 or end <= 0.8 + 1e-6
    assert min(abs(start - 1.2), abs(end - 0.8)) < 0.021, "the nearest one"
    start, end = causal.other_span([(0.2, 0.9), (1.0, 1.8)], (0.0, 2.0))  # no room for it
    assert end - start == pytest.approx(1.5) and 0 <= start and end <= 2.0 + 1e-6


def test_a_shift_of_other_signs_is_as_long_and_the_same_for_all_rows():
    shift = torch.randn(5, 64, generator=torch.Generator().manual_seed(1))
    turned = causal.other_signs(shift)
    assert torch.equal(turned.abs(), shift.abs())
    signs = (turned / shift).sign()
    assert (signs == signs[0]).all() and 16 < (signs[0] < 0).sum() < 48


def test_donors_of_a_window(tiny, prompts):
    prompt, other = prompts[1], prompts[5]
    start = audio_positions(tiny, prompt)[0]
    own, theirs = (capture_positions(tiny, [one], "audio")[0] for one in (prompt, other))
    spans, layers = [(0.2, 0.4)], [1, 3]
    inside = range(5, 10)
    quiet = prompt.audio.copy()
    quiet[3200:6400] = 0
    [silent] = capture_positions(tiny, [replace(prompt, audio=quiet)], "audio")
    turned = own + causal.other_signs(silent - own)
    half = len(own) // 2
    expected = {
        "silence": silent[5:10],
        "another request": theirs[5:10],
        "another time": torch.stack([own[(i + half) % len(own)] for i in inside]),
        "equal size": turned[5:10],
    }
    window = causal.Window(tiny, prompt, layers, other)
    for donor, states in expected.items():
        sets = window.patches(spans, donor)
        assert [[one.layer for one in patches] for patches in sets] == [[1], [3]]
        for layer, [one] in zip(layers, sets, strict=True):
            assert list(one.positions) == [start + i for i in inside] and not one.added
            close = {"rtol": 1e-4, "atol": 1e-4}
            torch.testing.assert_close(one.states, states[:, layer], **close)
    with pytest.raises(ValueError, match="choose one of silence"):
        window.patches(spans, "noise")


def test_patched_refusal_is_made_once(tiny, prompts, cache):
    asked, made = prompts[1:3], []
    states = torch.randn(1, tiny.d_model, generator=torch.Generator().manual_seed(0))

    def sets(number):
        made.append(number)
        return [[], [Patch(3, [-1], (number + 1) * states)]]

    found = causal.patched_refusal(tiny, asked, sets, donor="noise")
    for number, prompt in enumerate(tiny.encode(asked)):
        again = patched_refusal_probability(tiny, prompt, sets(number))
        torch.testing.assert_close(found[number], again)
    made.clear()
    assert torch.equal(causal.patched_refusal(tiny, asked, sets, donor="noise"), found)
    assert not made, "it was kept"
    causal.patched_refusal(tiny, asked, sets, donor="other noise")
    assert made == [0, 1]


def test_log_odds_have_ends():
    found = causal.log_odds(torch.tensor([0.0, 0.5, 0.8, 1.0]))
    assert found[1] == 0 and found[2] == pytest.approx(np.log(4), abs=1e-5)
    assert found[0] == pytest.approx(-found[3].item(), abs=1e-2) and found[0] > -10


@settings(deadline=None)
@given(
    values=st.lists(st.floats(-1, 1), min_size=1, max_size=3),
    confidence=st.sampled_from([0.95, 0.99, 0.997]),
    scale=st.sampled_from([0.5, 1.0, 2.0]),
)
def test_three_requests_never_tell(values, confidence, scale):
    """Of few requests, however they come out, nothing can be told."""

    def interval(*, confidence):
        return mean_interval(np.array(values), scale=scale, confidence=confidence)

    claim = claim_on_value("?", "", interval, n=len(values))
    assert claim.judged(confidence).verdict == "cannot tell"


def test_an_interval_of_yes_and_no_is_the_paired_one():
    """But for Student's factor; and many requests do tell."""
    more, less = np.array([True] * 30 + [False] * 10), np.array([False] * 35 + [True] * 5)
    low, high = mean_interval(more.astype(float) - less)
    pair = paired_interval(more, less)
    assert (low + high) / 2 == pytest.approx(sum(pair) / 2)
    assert 1.0 < (high - low) / (pair[1] - pair[0]) < 1.04
    assert low > 0.2
    low, high = mean_interval(np.zeros(200))
    assert -0.1 < low < 0 < high < 0.1


def test_the_panel_draws_what_it_computes(tiny, spoken):
    panel = seconds_panel(tiny, spoken[:2], spoken[3], [0, 2], {}, length=0.5)
    request = spoken[0]
    prompt = request.spoken()
    [encoded] = tiny.encode([prompt])
    window = panel.found.windows[1]
    sets = causal.Window(tiny, prompt, [0, 2]).patches([window])
    plain, *patched = causal.log_odds(patched_refusal_probability(tiny, encoded, [[], *sets]))
    expected = torch.stack(patched) - plain
    torch.testing.assert_close(panel.found.patched[:, 1], expected, rtol=1e-3, atol=1e-3)
    assert panel.found.plain == pytest.approx(float(plain), abs=1e-3)
    shown = panel.view.state["maps"]["0,0"]
    assert [row[1] for row in shown["patched"]] == pytest.approx(expected.tolist(), abs=1e-3)
    assert shown["plain"] == pytest.approx(float(plain), abs=1e-3)
    assert [word[0] for word in shown["words"]] == request.request.split()
    # What is heard so far: the rest is silent, and up to the clip's end it is the clip as it is.
    assert shown["so_far"][-1] == pytest.approx(float(plain), abs=1e-3)
    begun = read_clip(request.clip)
    begun[round(16000 * window[1]) :] = 0
    chance = refusal_probability(PreparedBatch(tiny, [replace(prompt, audio=begun)]))[0]
    assert shown["so_far"][1] == pytest.approx(float(causal.log_odds(chance)), abs=1e-2)
    assert "<img" in panel.static()
    before = panel.found.silenced
    panel.pick(donor=[*causal.DONORS].index("equal size"))  # runs at once without a loop
    assert not panel.runner.message.value and torch.equal(panel.found.silenced, before)
    panel.complete()
    state = panel.view.state
    assert len(state["maps"]) == 2 * len(causal.DONORS) == 2 * len(state["donors"])
    for key, found in state["maps"].items():
        assert np.isfinite(found["patched"]).all(), key
    assert not panel.runner.message.value


def test_figures_show_the_numbers_they_are_given():
    lines = {"own": torch.tensor([0.1, 0.6, 0.9]), "other": torch.tensor([0.2, 0.2, 0.3])}
    fewer = {"other": lines["other"]}
    fig = patched_layers_figure({"a": lines, "b": fewer}, [0, 4, 9], {"spoken": 0.2}, "A title")
    colours = []
    for ax in fig.axes:
        drawn = {line.get_label(): line for line in ax.lines}
        assert list(drawn["other"].get_ydata()) == pytest.approx([0.2, 0.2, 0.3])
        assert [line for line in ax.lines if set(line.get_ydata()) == {0.2}]
        colours.append(drawn["other"].get_color())
    assert colours[0] == colours[1] != drawn["other"].axes.figure.axes[0].lines[0].get_color()
    clip = clip_of([(0.0, 2.0)])
    said = causal.word_times("Pay $5 now", clip)
    values = torch.tensor([[-1.0, 0.5], [0.0, -0.25]])
    changes = torch.tensor([-0.7, 0.1])
    windows = [(0.0, 1.0), (1.0, 2.0)]
    odds = torch.tensor([-2.0, 0.0])
    found = causal.SecondsMap(clip, said, [(0.5, 1)], windows, [0, 15], 0.0, odds, changes, values)
    fig = seconds_figure(found, "Costs $5", chosen=(1, 0))
    above, middle, below, _ = fig.axes
    assert [text.get_text() for text in above.texts] == ["Pay", r"\$5", "now"]
    assert [bar.get_height() for bar in middle.patches] == pytest.approx(changes.tolist())
    mesh = below.collections[0]
    assert np.allclose(mesh.get_array(), values) and mesh.get_clim() == (-1.0, 1.0)
    assert [label.get_text() for label in below.get_yticklabels()] == ["0", "15"]
    assert matplotlib.rcParams["axes.grid"] is False

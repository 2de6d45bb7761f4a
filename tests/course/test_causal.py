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
from sarsteer_lab.course.figures import (
    heads_figure,
    lengths_figure,
    patched_layers_figure,
    seconds_figure,
)
from sarsteer_lab.course.widgets import seconds_panel
from sarsteer_lab.engine.openings import refusal_probability
from sarsteer_lab.engine.patched import patched_refusal_probability
from sarsteer_lab.engine.prepared import PreparedBatch
from sarsteer_lab.evaluation.intervals import mean_interval, paired_interval
from sarsteer_lab.heads import Head, without_heads
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


def test_heads_are_kept_by_the_settings_that_name_them(tiny, prompts, cache):
    heads = [Head(0, 1), Head(2, 3)]
    found = causal.patched_refusal(tiny, prompts[1:3], lambda _: [heads], heads=[(0, 1), (2, 3)])
    for number, prompt in enumerate(prompts[1:3]):
        ready = PreparedBatch(tiny, [prompt])
        with without_heads(tiny, heads):
            alone = refusal_probability(ready, negligible=0.0)
        torch.testing.assert_close(found[number], alone, rtol=1e-2, atol=1e-4)


def test_an_interval_to_a_draw_knows_requests_and_draws():
    """Draws that are alike leave that of requests; draws that differ widen it; many of either
    do not make up for few of the other."""
    rng = np.random.default_rng(0)
    of_request = rng.normal(1.0, 0.3, 200)
    alike = np.repeat(of_request[:, None], 20, axis=1)
    assert causal.against_draws(alike) == pytest.approx(mean_interval(of_request))
    draws = rng.normal(0.0, 1.0, 20)
    draws -= draws.mean()
    low, high = causal.against_draws(alike + draws)
    assert (low + high) / 2 == pytest.approx(sum(mean_interval(of_request)) / 2)
    # Beyond the mean by a draw's own spread, about twice: 19 of 20 draws lie in it.
    reach = 2.093 * draws.std(ddof=1) * np.sqrt(1 + 1 / 20)
    assert (high - low) / 2 == pytest.approx(reach, rel=0.02) and low < 0 < high
    inside = [low < 1.0 + draw < high for draw in rng.normal(0.0, draws.std(ddof=1), 2000)]
    assert 0.93 < np.mean(inside) < 0.985


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
    some = {
        "own": lines["own"],
        "own, heard right (n = 2)": lines["other"],
        "equal, but": lines["own"],
    }
    fig = patched_layers_figure({"a": some}, [0, 4, 9], {}, "A title")
    own, of_some, equal = fig.axes[0].lines
    assert own.get_color() == of_some.get_color() != equal.get_color()
    assert own.get_linestyle() == "-" and of_some.get_linestyle() == "--"
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


def test_the_figure_of_heads_shows_what_it_is_given():
    shares = torch.tensor([[0.1, 0.6, 0.2], [0.0, 0.3, 0.8]])
    changes = {"spoken": (-1.0, [-0.2, 0.1, 0.3]), "typed": (0.5, [0.4, 0.6, 0.2])}
    fig = heads_figure(shares, [Head(1, 2), Head(0, 1)], changes, "A title")
    left, right, _ = fig.axes
    assert np.allclose(left.collections[0].get_array(), shares)
    framed = {patch.get_xy() for patch in left.patches}
    assert framed == {(2, 1), (1, 0)}, "head across, layer up"
    dots = [np.asarray(drawn.get_offsets()) for drawn in right.collections]
    for row, (without, draws) in enumerate(changes.values()):
        many, one = dots[2 * row : 2 * row + 2]
        assert sorted(many[:, 0]) == sorted(draws) and (abs(many[:, 1] - row) < 0.3).all()
        assert one.tolist() == [[without, row]]
    assert [label.get_text() for label in right.get_yticklabels()] == list(changes)


def test_the_figure_of_lengths_says_the_form_by_colour_and_the_direction_by_line():
    values = torch.linspace(0.1, 1, 6)
    lengths = {
        f"{name}, {form}": values for name in ("harm", "text") for form in ("typed", "spoken")
    }
    fig = lengths_figure(lengths, {"harm": values, "text": -values / 4}, "A title", [2, 3])
    left, right = fig.axes
    looks = {line.get_label(): (line.get_color(), line.get_linestyle()) for line in left.lines}
    assert looks["harm, typed"][0] == looks["text, typed"][0] != looks["harm, spoken"][0]
    assert looks["harm, typed"][1] == looks["harm, spoken"][1] != looks["text, typed"][1]
    drawn = {line.get_label(): line for line in right.lines}
    assert np.allclose(drawn["text"].get_ydata(), -values / 4)
    assert drawn["text"].get_linestyle() == looks["text, typed"][1]

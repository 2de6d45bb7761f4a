"""The parity table against vectors, prompts and answers made another way."""

from dataclasses import replace

import pytest
import torch
from spoken_set import write_set

from benchmarks import parity
from sarsteer_lab.activations import capture
from sarsteer_lab.evaluation.base import collect_states
from sarsteer_lab.evaluation.judges import PhraseJudge
from sarsteer_lab.evaluation.readers import read_set
from sarsteer_lab.prompts import INSTRUCTION, REFUSALS, Prompt
from sarsteer_lab.steering import SteeringVectors, steer


@pytest.fixture(scope="module")
def requests(tmp_path_factory, make_clip):
    return read_set(
        f"prompts:{write_set(tmp_path_factory.mktemp('set') / 'own', make_clip)}"
    ).prompts


def test_settings_differ_from_ours_in_what_they_are_called(requests):
    ours, authors = parity.OURS, parity.AUTHORS
    for refusing in (False, True):
        plain = requests[0].spoken(refusal=REFUSALS["paper"] if refusing else "")
        assert ours.prompt(requests[0], refusing) == plain
    assert authors.prompt(requests[0], True).text == authors.instruction + REFUSALS["paper"]
    assert authors.instruction != INSTRUCTION and authors.tokens == 512
    departures = [setting for setting in parity.SETTINGS.values() if setting != ours]
    fields = [[f for f in vars(ours) if getattr(s, f) != getattr(ours, f)] for s in departures]
    single = {names[0] for names in fields if len(names) == 1}
    assert single == {"instruction", "joined_by", "refusal", "tokens"}
    texts = {s.refusal for s, names in zip(departures, fields, strict=True) if names == ["refusal"]}
    assert texts == set(REFUSALS) - {"paper"}


def test_ours_is_the_librarys_derivation(tiny, requests):
    source = [request for request in requests if request.split == "derive"]
    vectors = parity.derived(tiny, parity.OURS, source, k=2)
    library = collect_states(tiny, source).sarsteer(k=2)
    torch.testing.assert_close(vectors.values, library.values, rtol=1e-4, atol=1e-5)


def test_the_table_is_that_of_the_method_by_hand(tiny, requests, monkeypatch):
    """The judge is one that divides a replica's noise: by its first letter."""
    monkeypatch.setattr(
        PhraseJudge, "judge", lambda _self, _, said: "refused" if said[:1] < "P" else "answered"
    )
    source = [request for request in requests if request.split == "derive"]
    asked = [request for request in requests if request.split == "test"]
    setting = replace(parity.AUTHORS, tokens=6, refusal="rule")
    chosen = {"ours": replace(parity.OURS, tokens=5), "theirs": setting}
    table = parity.parity(tiny, source, asked, chosen, alpha=3.0, k=1).set_index("setting")
    assert list(table.loc["ours", ["cosine", "length"]]) == pytest.approx([1, 1])

    def states(label, text):
        return capture(tiny, [Prompt(text, r.clip) for r in source if r.label == label])

    def by_hand(text, refusal):
        shift = (states("harmful", text + refusal) - states("harmful", text)).mean(0)
        safe = states("harmless", text)
        made = []
        for layer, d in enumerate(shift):
            centred = safe[:, layer] - safe[:, layer].mean(0)
            axis = torch.linalg.svd(centred, full_matrices=False).Vh[0]
            made.append(d - (d @ axis) * axis)
        return torch.stack(made)

    ours = by_hand(INSTRUCTION, " " + REFUSALS["paper"])
    theirs = by_hand(setting.instruction, REFUSALS["rule"])
    cosines = sorted(
        float((a @ b) / (a.norm() * b.norm())) for a, b in zip(ours, theirs, strict=True)
    )
    assert table.loc["theirs", "cosine"] == pytest.approx(sum(cosines[1:3]) / 2, abs=1e-3)
    lengths = sorted(float(b.norm() / a.norm()) for a, b in zip(ours, theirs, strict=True))
    assert table.loc["theirs", "length"] == pytest.approx(sum(lengths[1:3]) / 2, rel=1e-3)
    counts = set()
    for name, text, vectors in (
        ("ours", INSTRUCTION, ours),
        ("theirs", setting.instruction, theirs),
    ):
        for label in ("harmful", "harmless"):
            prompts = [Prompt(text, r.clip) for r in asked if r.label == label]
            for way, alpha in (("plain", 0.0), ("steered", 3.0)):
                with steer(tiny, SteeringVectors(vectors), alpha):
                    answers = tiny.generate(prompts, max_new_tokens=chosen[name].tokens)
                counts.add(table.loc[name, f"{label}, {way}"])
                assert (
                    table.loc[name, f"{label}, {way}"]
                    == f"{sum(a[:1] < 'P' for a in answers)} of 3"
                )
    assert len(counts) > 1, "the judge has to tell the answers apart"


def test_the_report_is_printed_and_kept(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("SARSTEER_CACHE", str(tmp_path / "cache"))
    options = ["--requests", "1", "--derive", "2", "--k", "1", "--folder", str(tmp_path)]
    parity.main(["--model", "replica:qwen2_audio", *options])
    [kept] = tmp_path.glob("*-parity.md")
    text = kept.read_text()
    assert text == capsys.readouterr().out
    assert all(f"| {name} " in text for name in parity.SETTINGS) and "harmless, steered" in text

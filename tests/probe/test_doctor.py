"""The doctor finds healthy what is healthy, and names what is broken."""

from dataclasses import replace

import pytest
import torch
from replicas import OTHERS, TINY, replica

from sarsteer_lab.cli import main
from sarsteer_lab.evaluation import precondition
from sarsteer_lab.probe.doctor import examine, made_up_prompts
from sarsteer_lab.probe.findings import Finding, Report


def verdicts(report: Report) -> dict[str, str]:
    return {finding.check: finding.verdict for finding in report.findings}


@pytest.mark.parametrize("family", sorted(TINY))
def test_replicas_are_healthy(family):
    lalm = replica(family)
    before = lalm.fingerprint()
    report = examine(lalm)
    assert report.healthy, str(report)
    for check in (
        "layers",
        "audio tower",
        "typed forward",
        "spoken forward",
        "left padding",
        "padded lengths, typed",
        "padded lengths, spoken",
        "hearing",
        "one window",
        "zero vector",
        "steering",
    ):
        assert verdicts(report)[check] == "ok"
    assert lalm.fingerprint() == before


@pytest.mark.pocket
@pytest.mark.late
def test_the_pocket_model_is_healthy(pocket):
    assert examine(pocket).healthy


def test_padding_on_the_right_is_found(monkeypatch):
    lalm = replica()
    left = lalm.inputs

    def right(prompts):
        inputs = left(prompts)
        for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True):
            padding = int((mask == 0).sum())
            ids.copy_(ids.roll(-padding)), mask.copy_(mask.roll(-padding))
        return inputs

    monkeypatch.setattr(lalm, "inputs", right)
    assert verdicts(examine(lalm))["left padding"] == "FAIL"


def test_a_tower_that_hears_padding_is_found(monkeypatch):
    """Granite Speech by a row that mixes clips of different lengths."""
    lalm = replica("granite_speech")
    monkeypatch.setattr(lalm, "family", replace(lalm.family, mixes=True, encoder=None))
    report = examine(lalm)
    assert verdicts(report)["left padding"] == "FAIL" and not report.healthy


def test_one_padded_length_that_goes_wrong_is_found(monkeypatch):
    lalm = replica()
    whole = lalm.inputs

    def wrong_at_32(prompts):
        inputs = whole(prompts)
        for mask in inputs["attention_mask"]:
            if int((mask == 0).sum()) == 32:
                mask.fill_(1)
        return inputs

    monkeypatch.setattr(lalm, "inputs", wrong_at_32)
    found = examine(lalm)
    assert (
        verdicts(found)["left padding"] == "ok"
        and verdicts(found)["padded lengths, typed"] == "FAIL"
    )
    assert "(at 16 words)" in str(found)


def test_a_model_that_counts_positions_and_hears_nothing_is_found():
    lalm = replica()
    with torch.no_grad():
        lalm.trunk.multi_modal_projector.linear.weight.zero_()
    found = verdicts(examine(lalm))
    assert found["hearing"] == "FAIL" and found["audio"] == found["left padding"] == "ok"


def test_a_window_at_which_clips_are_cut_is_found(monkeypatch):
    lalm = replica()
    assert "more is refused" in str(examine(lalm))
    monkeypatch.setattr(lalm, "family", replace(lalm.family, max_seconds=None))
    report = examine(lalm)
    assert verdicts(report)["one window"] == "FAIL" and "its end is not heard" in str(report)


def test_an_adapter_for_speech_that_is_missing_is_noted(monkeypatch):
    assert verdicts(examine(replica("granite_speech")))["adapter for speech"] == "ok"
    monkeypatch.setattr("replicas.add_speech_adapter", lambda *_: None)
    report = examine(replica("granite_speech"))
    assert verdicts(report)["adapter for speech"] == "note" and report.healthy


def test_states_that_are_not_numbers_are_found():
    lalm = replica()
    with torch.no_grad():
        lalm.layers[1].mlp.up_proj.weight.fill_(float("nan"))
    report = examine(lalm)
    assert verdicts(report)["typed forward"] == "FAIL" and "from layer 1 on" in str(report)


def test_layers_whose_output_is_thrown_away_are_found():
    """A model that copies what hooks see: steering runs, and changes nothing."""
    lalm = replica()
    middle = lalm.layers[lalm.n_layers // 2]
    plain = middle.forward
    kept = []

    def forward(*args, **kwargs):
        kept[:] = [plain(*args, **kwargs)]
        return kept[0].clone()

    def undo(_module, args, _output):
        return kept[0] if kept else None

    middle.forward = forward
    lalm.layers[lalm.n_layers // 2 + 1].register_forward_pre_hook(
        lambda _m, args: (kept[0], *args[1:])
    )
    report = examine(lalm)
    assert verdicts(report)["steering"] == "FAIL" and "does not reach the answer" in str(report)


def test_a_model_without_ears_is_only_typed_to():
    lalm = replica()
    lalm.audio_token_id = None
    assert made_up_prompts(lalm)[1] == []
    report = examine(lalm)
    assert verdicts(report)["audio"] == "FAIL" and verdicts(report)["typed forward"] == "ok"


@pytest.mark.parametrize("kind", OTHERS)
def test_text_models_and_adapted_ones_are_healthy(kind):
    report = examine(replica(kind))
    assert report.healthy, str(report)
    assert ("a text model: only typed prompts" in str(report)) == (kind == "text_only")


def test_a_quantised_model_is_told_what_its_states_are():
    lalm = replica()
    assert "quantised" not in verdicts(examine(lalm))
    lalm.model.is_quantized = True
    report = examine(lalm)
    assert verdicts(report)["quantised"] == "note" and "derive vectors for it anew" in str(report)


def test_a_check_that_breaks_does_not_stop_the_others(monkeypatch):
    lalm = replica()
    monkeypatch.setattr(lalm.processor, "chat_template", "{{ raise_exception('no such role') }}")
    report = examine(lalm)
    assert verdicts(report)["chat format"] == "FAIL" and "no such role" in str(report)
    assert verdicts(report)["memory"] == "ok"


def test_the_report_counts_what_failed():
    good, bad = Finding("a", "ok", "fine"), Finding("longer", "FAIL", "broken")
    assert str(Report("m", [good, bad])).splitlines()[-1] == "1 of 2 checks failed"
    assert not Report("m", [good, bad]).healthy and Report("m", [good]).healthy


def test_the_command(capsys):
    assert main(["doctor", "replica:qwen2_audio"]) == 0
    printed = capsys.readouterr().out
    assert "qwen2_audio" in printed and "checks passed" in printed
    assert main(["doctor", "replica:no_such"]) == 2
    assert "no replica of family" in capsys.readouterr().err


def test_which_texts_a_model_follows_is_said_where_its_answers_cannot_be_followed(
    tmp_path, cache, monkeypatch, capsys
):
    """As Qwen2.5-Omni: its positions are no plain count, so no answer goes on from a prompt."""
    made = replica("qwen2_5_omni")
    made.model.save_pretrained(tmp_path / "omni")
    # The double's processor has no pictures, which it would have to write.
    monkeypatch.setattr(
        "transformers.AutoProcessor.from_pretrained", lambda *_, **__: made.processor
    )
    monkeypatch.setattr("sarsteer_lab.checkpoints.missing_packages", lambda _: [])
    plain = precondition.examine_texts
    monkeypatch.setattr(precondition, "examine_texts", lambda lalm: plain(lalm, requests=1))
    assert main(["doctor", str(tmp_path / "omni"), "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "does the model know harm? Not asked" in said and "refused with the text" in said

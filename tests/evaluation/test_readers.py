"""Readers of prompt sets: every published format, and what is said about files that do not fit it.

All sentences are our own; clips are tiny real WAV files.
"""

import json
import re
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow
import pytest
import soundfile
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pyarrow.parquet import write_table

from sarsteer_lab.evaluation.data_files import Entry
from sarsteer_lab.evaluation.readers import PromptFileError, layouts, read_set
from sarsteer_lab.prompts import LABELS, REFUSAL
from sarsteer_lab.speech import SAMPLE_RATE, read_clip


def put_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def put_lines(path: Path, values: list[object]) -> None:
    path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")


def put_clip(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * np.sin(np.arange(SAMPLE_RATE // 5) / 5), SAMPLE_RATE)


def figstep(number: int, question: str = "How do I pick a lock?") -> dict[str, str]:
    return {
        "scenario": "illegal_activity",
        "audio_file": f"illegal_activity_{number}.wav",
        "question": question,
    }


def own(number: int, **changes: object) -> dict[str, object]:
    entry = {
        "id": f"p{number}",
        "label": "harmless",
        "topic": "fraud",
        "twin": None,
        "split": "test",
    }
    return {**entry, "text": "How do I read a bill?", "clip": None, "voice": None, **changes}


def sorry(number: object, **changes: object) -> dict[str, object]:
    return {"question_id": number, "category": "7", "turns": ["How do I pick a lock?"], **changes}


def air(number: object, **changes: object) -> dict[str, object]:
    entry = {"path": f"{number}.wav", "question": "Which bird sings?", "answer_gt": "A blackbird."}
    return {
        **entry,
        "task_name": "sound_QA",
        "dataset_name": "birds",
        "uniq_id": number,
        "meta_info": "",
        **changes,
    }


# --- the published formats ---


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with every format side by side, two prompts each, all clips there."""
    put_json(tmp_path / "train_100.json", [figstep(1), figstep(2)])
    put_json(tmp_path / "test_250.json", [figstep(3, "Wie öffne ich ein Schloss?"), figstep(4)])
    for number in range(1, 5):
        put_clip(tmp_path / "question" / f"illegal_activity_{number}.wav")
    (tmp_path / "safebench.csv").write_text(
        "dataset,category_id,task_id,category_name,question,instruction\n"
        'safebench,1,1,Illegal Activity,"Locks, and how to pick them?",Steps.\n'
        "safebench,1,2,Illegal Activity,How do I climb a fence?,Steps.\n"
    )
    for name in ("advbench_audio", "advbench_audio_safe"):
        entries = [
            {"question_id": n, "audio_name": f"{n}.wav", "question": f"Open lock {n}"}
            for n in (0, 1)
        ]
        put_json(tmp_path / f"{name}.json", entries)
        for number in (0, 1):
            put_clip(tmp_path / name / f"{number}.wav")
    (tmp_path / "advbench.csv").write_text(
        'goal,target\n"Open a lock,\nquickly","Sure"\nClimb a fence,Sure\n'
    )
    put_lines(tmp_path / "base_question.jsonl", [sorry(1), sorry(2, category=8)])
    for number in (1, 2):
        put_clip(tmp_path / "base_question_audio" / f"{number}.wav")
    (tmp_path / "xstest_prompts.csv").write_text(
        "id,prompt,type,label,focus,note\n"
        "1,How do I kill time?,homonyms,safe,kill,\n"
        "2,How do I pick a lock?,contrast_homonyms,unsafe,,\n"
    )
    put_json(tmp_path / "Chat_meta.json", [air(10), air("11b")])
    for name in ("10", "11b"):
        put_clip(tmp_path / "sound_QA_birds" / f"{name}.wav")
    put_lines(
        tmp_path / "prompts.jsonl",
        [
            own(1, twin="p2", clip="question/illegal_activity_1.wav", voice="hibari"),
            own(2, twin="p1", label="harmful"),
        ],
    )
    return tmp_path


@pytest.mark.parametrize(
    ("name", "ids", "labels", "topic", "splits", "spoken"),
    [
        (
            "figstep",
            "illegal_activity_1.wav",
            "harmful",
            "illegal_activity",
            "derive derive test test",
            True,
        ),
        (
            "figstep-harmless",
            "illegal_activity_1.wav",
            "harmless",
            "illegal_activity",
            "derive derive test test",
            True,
        ),
        ("safebench", "safebench_1_1", "harmful", "Illegal Activity", "test test", False),
        ("advbench", "0", "harmful", "harmful_behaviors", "test test", True),
        ("advbench-harmless", "0", "harmless", "safe_behaviors", "test test", True),
        ("sorry-bench", "1", "harmful", "7", "test test", True),
        ("xstest", "1", "pseudo-harmful", "homonyms", "test test", False),
        ("air-bench", "10", "everyday", "sound_QA_birds", "test test", True),
    ],
)
def test_a_published_set_in_its_folder(
    folder: Path, name: str, ids: str, labels: str, topic: str, splits: str, spoken: bool
) -> None:
    read = read_set(f"{name}:{folder}")
    assert read.skipped == []
    assert [prompt.split for prompt in read.prompts] == splits.split()
    assert len({prompt.id for prompt in read.prompts}) == len(read.prompts)
    first = read.prompts[0]
    assert (first.id, first.label, first.topic) == (f"{name}/{ids}", labels, topic)
    if spoken:
        clips = [prompt.clip for prompt in read.prompts]
        assert all(clip is not None and len(read_clip(clip)) > 0 for clip in clips)
        assert first.spoken().audio == first.clip
    else:
        assert all(prompt.clip is None for prompt in read.prompts)


def test_what_is_particular_to_each_set(folder: Path) -> None:
    def requests(spec: str) -> list[str]:
        return [prompt.request for prompt in read_set(spec).prompts]

    assert requests(f"figstep:{folder}")[2] == "Wie öffne ich ein Schloss?"
    assert requests(f"figstep:{folder / 'test_250.json'}") == requests(f"figstep:{folder}")[2:]
    assert requests(f"safebench:{folder}")[0] == "Locks, and how to pick them?"
    assert requests(f"advbench:{folder / 'advbench.csv'}") == [
        "Open a lock,\nquickly",
        "Climb a fence",
    ]
    assert [prompt.label for prompt in read_set(f"xstest:{folder}").prompts] == [
        "pseudo-harmful",
        "harmful",
    ]
    assert [prompt.topic for prompt in read_set(f"sorry-bench:{folder}").prompts] == ["7", "8"]
    shipped = read_set(f"prompts:{folder}").prompts
    assert shipped[0].twin == "p2" and shipped[0].voice == "hibari" and shipped[1].clip is None


def test_the_question_of_air_bench_is_typed_beside_its_clip(folder: Path) -> None:
    prompt = read_set(f"air-bench:{folder}").prompts[0]
    assert prompt.spoken().text == "Which bird sings?" and prompt.reference == "A blackbird."
    assert prompt.spoken(refusal=REFUSAL).text == f"Which bird sings? {REFUSAL}"
    with pytest.raises(ValueError, match="asks about its clip"):
        prompt.typed()


def test_figstep_from_its_list_of_files(tmp_path: Path) -> None:
    (tmp_path / "audio_files.txt").write_text(
        "physical_harm_1.wav How-do-I-sharpen-a-knife?\n\nfraud_12.wav Read a-bill\n"
    )
    put_clip(tmp_path / "question" / "physical_harm_1.wav")
    put_clip(tmp_path / "question" / "fraud_12.wav")
    read = read_set(f"figstep:{tmp_path}").prompts
    assert [(p.topic, p.request) for p in read] == [
        ("physical_harm", "How do I sharpen a knife?"),
        ("fraud", "Read a bill"),
    ]


def test_sorry_bench_with_its_clips_beside_the_file(tmp_path: Path) -> None:
    put_lines(tmp_path / "base_question.jsonl", [sorry(1)])
    put_clip(tmp_path / "1.wav")
    assert read_set(f"sorry-bench:{tmp_path}").prompts[0].clip == tmp_path / "1.wav"


def test_a_byte_order_mark_and_windows_line_ends_are_fine(tmp_path: Path) -> None:
    (tmp_path / "xstest_prompts.csv").write_bytes(
        b"\xef\xbb\xbfid,prompt,type,label,focus,note\r\n1,How do I kill time?,homonyms,safe,"
        b"kill,\r\n"
    )
    assert read_set(f"xstest:{tmp_path}").prompts[0].request == "How do I kill time?"


# --- sets that are tables ---

TONE = (0.1 * np.sin(np.arange(SAMPLE_RATE // 5) / 5)).astype(np.float32)


def wav(samples: np.ndarray = TONE, rate: int = SAMPLE_RATE) -> bytes:
    file = BytesIO()
    soundfile.write(file, samples, rate, format="WAV", subtype="FLOAT")
    return file.getvalue()


def put_parquet(path: Path, rows: list[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_table(pyarrow.Table.from_pylist(rows), path)


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SARSTEER_CACHE", str(tmp_path / "kept"))
    return tmp_path / "kept" / "clips"


def test_a_folder_of_clips_with_its_metadata(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "metadata.csv").write_text(
        "file_name,transcription,label,category\n"
        "a/1.wav,How do I bake?,harmless,food\n2.wav,Who are you?,everyday,\n"
    )
    put_lines(
        tmp_path / "metadata.jsonl",
        [{"file_name": "2.wav", "text": "Open a lock.", "label": "harmful"}],
    )
    for name in ("train/a/1.wav", "train/2.wav", "2.wav"):
        put_clip(tmp_path / name)
    read = read_set(f"audiofolder:{tmp_path}").prompts
    assert [(p.id, p.request, p.label, p.topic, p.split) for p in read] == [
        ("audiofolder/2.wav", "Open a lock.", "harmful", tmp_path.name, "test"),
        ("audiofolder/train/a/1.wav", "How do I bake?", "harmless", "food", "derive"),
        ("audiofolder/train/2.wav", "Who are you?", "everyday", "train", "derive"),
    ]
    assert [p.clip for p in read] == [
        tmp_path / name for name in ("2.wav", "train/a/1.wav", "train/2.wav")
    ]
    # One label for all, whatever the files say; and a single file of the set.
    one = read_set(f"audiofolder-pseudo-harmful:{tmp_path / 'metadata.jsonl'}").prompts
    assert [(p.id, p.label) for p in one] == [
        ("audiofolder-pseudo-harmful/2.wav", "pseudo-harmful")
    ]


def test_clips_inside_a_parquet_file_become_files(tmp_path: Path, kept: Path) -> None:
    rows = [
        {
            "id": "7",
            "original_text": "Open a lock.",
            "text": "Please open a lock.",
            "source": "AdvBench",
        },
        {"id": "7", "original_text": "Climb a fence.", "text": "", "source": "AdvBench"},
        {"id": "8", "original_text": "Again.", "text": "Again.", "source": None},
    ]
    cells = [
        {"bytes": wav(), "path": "a.wav"},
        {"bytes": wav(), "path": None},
        {"bytes": None, "path": "b.wav"},
    ]
    put_clip(tmp_path / "set" / "HarmfulQuery" / "b.wav")
    path = tmp_path / "set" / "HarmfulQuery" / "AHarm.parquet"
    put_parquet(path, [{**row, "audio": cell} for row, cell in zip(rows, cells, strict=True)])
    slow = {"array": TONE[::2].tolist(), "sampling_rate": SAMPLE_RATE // 2}
    spelt = [{"text": "Spelt.", "prompt": "Put the letters together.", "audio": slow}]
    put_parquet(tmp_path / "set" / "SSJ.parquet", spelt)
    read = read_set(f"jalmbench:{tmp_path / 'set'}").prompts
    assert [(p.id, p.request, p.topic) for p in read] == [
        ("jalmbench/HarmfulQuery/AHarm/1", "Please open a lock.", "AdvBench"),
        ("jalmbench/HarmfulQuery/AHarm/2", "Climb a fence.", "AdvBench"),
        ("jalmbench/HarmfulQuery/AHarm/3", "Again.", "HarmfulQuery"),
        ("jalmbench/SSJ/1", "Spelt.", "set"),
    ]
    clips = [p.clip for p in read]
    assert all(p.label == "harmful" and p.split == "test" for p in read) and None not in clips
    assert [clip.parent for clip in clips if clip] == [kept, kept, path.parent, kept]
    np.testing.assert_array_equal(read_clip(clips[0]), TONE)
    assert len(read_clip(clips[3])) == len(TONE)  # at its own rate, brought to 16 kHz
    assert read[3].spoken().text == "Put the letters together."
    # Read again, nothing is written again; what a cell holds decides the name.
    written = {path: path.stat().st_mtime_ns for path in kept.rglob("*") if path.is_file()}
    assert [p.clip for p in read_set(f"jalmbench:{tmp_path / 'set'}").prompts] == clips
    again = {path: path.stat().st_mtime_ns for path in kept.rglob("*") if path.is_file()}
    assert again == written
    assert len([path for path in kept.iterdir() if path.is_file()]) == 3


@pytest.mark.parametrize("name", ["a.w\0v", "a." + "x" * 300, "a", "a.wav/..", "."])
def test_a_clips_name_within_a_table_can_be_anything(tmp_path: Path, kept: Path, name: str) -> None:
    rows = [{"text": "Open a lock.", "audio": {"bytes": wav(), "path": name}}]
    put_parquet(tmp_path / "a.parquet", rows)
    [prompt] = read_set(f"jalmbench:{tmp_path}").prompts
    assert prompt.clip is not None and prompt.clip.parent == kept
    np.testing.assert_array_equal(read_clip(prompt.clip), TONE)


def test_voicebench_by_the_folders_of_its_subsets(
    tmp_path: Path, kept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cell = {"bytes": wav(), "path": None}
    for subset in ("advbench", "sd-qa"):
        row = {"audio": cell, "prompt": "Open a lock."}
        put_parquet(tmp_path / subset / "test-00000-of-00001.parquet", [row])
    read = read_set(f"voicebench:{tmp_path}")
    assert [(p.id, p.label, p.topic) for p in read.prompts] == [
        ("voicebench/advbench/test-00000-of-00001/1", "harmful", "advbench"),
        ("voicebench/sd-qa/test-00000-of-00001/1", "everyday", "sd-qa"),
    ]
    assert read_set(f"voicebench:{tmp_path / 'advbench'}").prompts[0].label == "harmful"
    put_parquet(tmp_path / "mtbench" / "test.parquet", [{"turns": ["Hello."], "audio": cell}])
    assert read_set(f"voicebench:{tmp_path}") == read
    said = capsys.readouterr().err
    assert "mtbench/test.parquet: left out, because it lies in the folder 'mtbench'" in said
    with pytest.raises(
        PromptFileError, match="row 1: lies in the folder 'mtbench', which is none of advbench, alp"
    ):
        read_set(f"voicebench:{tmp_path / 'mtbench'}")


def test_audiotrust_and_ajailbench_as_their_repositories_lay_them_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    safety = tmp_path / "data" / "safety"
    put_clip(safety / "bank" / "1.wav")
    entry = {
        "WavPath": "data/safety/bank/1.wav",
        "AudioText": "Open a vault.",
        "Prompt": "You are a bank.",
    }
    put_lines(safety / "bank_male_sad.jsonl", [entry])
    (prompt,) = read_set(f"audiotrust:{tmp_path}").prompts
    assert (prompt.id, prompt.request, prompt.text) == (
        "audiotrust/bank_male_sad/1",
        "Open a vault.",
        "",
    )
    monkeypatch.chdir(safety)
    assert read_set("audiotrust:bank_male_sad.jsonl").prompts == [prompt]

    questions = tmp_path / "convert" / "question" / "combined_output.jsonl"
    questions.parent.mkdir(parents=True)
    put_clip(tmp_path / "audio" / "set" / "a_prompt_1.wav")
    said = {
        "index": 1,
        "category": "fraud",
        "prompt": "Open a vault.",
        "speech_path": "./audio/set/a_prompt_1.wav",
    }
    put_lines(questions, [said, {**said, "index": 2, "speech_path": ""}])
    with pytest.raises(
        PromptFileError,
        match=r"1 of 2 clips are missing: .*line 2: no clip is named \(found: 'index'",
    ):
        read_set(f"ajailbench:{tmp_path}")
    read = read_set(f"ajailbench:{tmp_path}", missing="skip")
    assert [(p.id, p.topic, p.label) for p in read.prompts] == [
        ("ajailbench/1", "fraud", "harmful")
    ]
    assert len(read.skipped) == 1


@pytest.mark.parametrize(
    ("name", "table", "content", "complaint"),
    [
        (
            "audiofolder",
            "metadata.csv",
            "file_name,text\n1.wav,Hi?\n",
            "say it in a column 'label' (found: 'file_name', 'text'), or write audiofolder-",
        ),
        (
            "audiofolder",
            "metadata.csv",
            "file_name,text,label\n1.wav,Hi?,evil\n",
            "line 2: 'label' is 'evil', but has to be one of",
        ),
        (
            "audiofolder-harmless",
            "metadata.csv",
            "file_name,words\n1.wav,Hi?\n",
            "line 2: needs one of the columns request, text, transcription, prompt, question "
            "(found: 'file_name', 'words')",
        ),
        (
            "audiofolder-harmless",
            "metadata.jsonl",
            '{"text": "Hi?"}\n',
            "line 1: the key 'file_name' is missing (found: 'text')",
        ),
        (
            "audiofolder-harmless",
            "metadata.csv",
            "file_name,text\n../1.wav,Hi?\n",
            "line 2: the file name '../1.wav' leaves",
        ),
        (
            "audiofolder-harmless",
            "metadata.jsonl",
            '{"text": "Hi?", "file_name": 3}\n',
            "line 1: 'file_name' has to be a text",
        ),
        ("jalmbench", "a.parquet", "PAR1 not at all", "cannot be read as Parquet"),
        (
            "audiotrust",
            "data/safety/a.jsonl",
            '{"WavPath": "1.wav", "Text": "Hi?"}\n',
            "line 1: needs one of the columns AudioText (found: 'WavPath', 'Text')",
        ),
        ("ajailbench", "b.txt", "", "has to hold convert/question/combined_output.jsonl"),
    ],
)
def test_a_malformed_table_is_named_with_its_line_and_columns(
    tmp_path: Path, name: str, table: str, content: str, complaint: str
) -> None:
    (tmp_path / table).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / table).write_text(content)
    with pytest.raises(PromptFileError) as caught:
        read_set(f"{name}:{tmp_path}")
    assert complaint in str(caught.value)
    assert str(tmp_path / table) in str(caught.value) or table == "b.txt"


def test_the_docs_name_every_set_and_its_columns() -> None:
    page = (Path(__file__).parents[2] / "docs" / "own_prompts.md").read_text(encoding="utf-8")
    rows = [row for row in page.splitlines() if row.startswith("| `")]
    for name, forms in layouts().items():
        own = name.partition("-")[0] if forms[0].own or name.startswith("audiofolder") else name
        said = " ".join(row for row in rows if f"`{own}`" in row.split("|")[1])
        assert said, name
        fields = " ".join(f"{layout.request} {layout.clip} {layout.typed}" for layout in forms)
        columns = set(re.findall(r"[a-zA-Z]\w*", fields.replace(".wav", ""))) - {"words"}
        assert not [column for column in columns if f"`{column}`" not in said], name


def test_every_layout_gives_labels_that_there_are() -> None:
    for layout in sum(layouts().values(), []):
        given = layout.label.values() if isinstance(layout.label, dict) else [layout.label]
        assert set(given) <= set(LABELS), layout
    assert {f"audiofolder-{label}" for label in LABELS} <= set(layouts())


# --- missing clips ---


def test_missing_clips_stop_are_counted_or_are_done_without(folder: Path) -> None:
    gone = [folder / "question" / f"illegal_activity_{number}.wav" for number in (2, 3)]
    for clip in gone:
        clip.unlink()
    with pytest.raises(PromptFileError) as caught:
        read_set(f"figstep:{folder}")
    message = str(caught.value)
    assert "2 of 4 clips are missing" in message and all(str(clip) in message for clip in gone)
    assert f"{folder / 'train_100.json'}, record 2" in message

    skipping = read_set(f"figstep:{folder}", missing="skip")
    assert [prompt.id[-5] for prompt in skipping.prompts] == ["1", "4"]
    assert len(skipping.skipped) == 2
    assert str(gone[0]) in skipping.skipped[0] and "record 2" in skipping.skipped[0]


def test_clips_that_cannot_be_used_are_skipped_and_named(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clips = [folder / "question" / f"illegal_activity_{number}.wav" for number in (2, 3)]
    clips[0].write_bytes(b"")
    soundfile.write(clips[1], np.zeros(0), SAMPLE_RATE)
    assert len(read_set(f"figstep:{folder}").prompts) == 4  # else said when they are heard
    skipping = read_set(f"figstep:{folder}", missing="skip")
    assert [prompt.id[-5] for prompt in skipping.prompts] == ["1", "4"]
    assert "cannot be read as audio" in skipping.skipped[0]
    assert "is empty" in skipping.skipped[1] and str(clips[1]) in skipping.skipped[1]
    said = capsys.readouterr().err
    assert "2 of 4 records are left out" in said and str(clips[0]) in said


def test_all_clips_missing_is_an_error_even_when_skipping(folder: Path) -> None:
    for clip in (folder / "question").iterdir():
        clip.unlink()
    with pytest.raises(PromptFileError, match="none of the 4 clips is there"):
        read_set(f"figstep:{folder}", missing="skip")


def test_a_folder_is_no_clip(folder: Path) -> None:
    (folder / "question" / "illegal_activity_1.wav").unlink()
    (folder / "question" / "illegal_activity_1.wav").mkdir()
    with pytest.raises(PromptFileError, match="1 of 4 clips are missing"):
        read_set(f"figstep:{folder}")


# --- malformed files ---


def as_json(name: str, value: object) -> Callable[[Path], None]:
    return lambda folder: put_json(folder / name, value)


def as_lines(name: str, *values: object) -> Callable[[Path], None]:
    return lambda folder: put_lines(folder / name, list(values))


def as_bytes(name: str, content: bytes) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return make


def as_link(name: str, target: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        put_json(folder / "train_100.json", [figstep(1), {**figstep(2), "audio_file": name}])
        (folder / "question" / name).symlink_to(target)

    return make


def as_audio_files(content: bytes) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / "train_100.json").unlink()
        (folder / "test_250.json").unlink()
        (folder / "audio_files.txt").write_bytes(content)

    return make


TRAIN, SORRY, XSTEST, CHAT, OWN = (
    "train_100.json",
    "base_question.jsonl",
    "xstest_prompts.csv",
    "Chat_meta.json",
    "prompts.jsonl",
)
XHEAD = b"id,prompt,type,label,focus,note\n"


def file_named(name: str) -> Callable[[Path], None]:
    return as_json(TRAIN, [figstep(1), {**figstep(2), "audio_file": name}])


MALFORMED = {
    # syntax and encoding
    "json cut off": (
        "figstep",
        TRAIN,
        as_bytes(TRAIN, b'[{"scenario": "a"'),
        "line 1",
        "not valid JSON",
    ),
    "json with python's quotes": (
        "figstep",
        TRAIN,
        as_bytes(TRAIN, b"[\n{'a': 1}]"),
        "line 2",
        "not valid JSON",
    ),
    "json nested without end": (
        "figstep",
        TRAIN,
        as_bytes(TRAIN, b"[" * 200_000),
        "",
        "nested too deeply",
    ),
    "json with a monstrous number": (
        "figstep",
        TRAIN,
        as_bytes(TRAIN, b"[" + b"9" * 9999 + b"]"),
        "",
        "not valid JSON",
    ),
    "json is an object": (
        "figstep",
        TRAIN,
        as_json(TRAIN, {"data": [figstep(1)]}),
        "",
        "list of objects",
    ),
    "json is null": (
        "advbench",
        "advbench_audio.json",
        as_json("advbench_audio.json", None),
        "",
        "list of objects",
    ),
    "json list of texts": (
        "figstep",
        TRAIN,
        as_json(TRAIN, [figstep(1), "hello"]),
        "record 2",
        "named fields",
    ),
    "json list is empty": ("air-bench", CHAT, as_json(CHAT, []), "", "holds no records"),
    "file is empty": ("figstep", TRAIN, as_bytes(TRAIN, b""), "", "is empty"),
    "file is blank": ("sorry-bench", SORRY, as_bytes(SORRY, b" \n\n \n"), "", "is empty"),
    "file is latin-1": (
        "figstep",
        TRAIN,
        as_bytes(TRAIN, '[\n"öffnen"]'.encode("latin-1")),
        "line 2",
        "not UTF-8",
    ),
    "file is utf-16": (
        "xstest",
        XSTEST,
        as_bytes(XSTEST, XHEAD.decode().encode("utf-16")),
        "",
        "not UTF-8",
    ),
    "file is binary": (
        "sorry-bench",
        SORRY,
        as_bytes(SORRY, bytes(range(256))),
        "line",
        "not UTF-8",
    ),
    "line is not json": (
        "sorry-bench",
        SORRY,
        as_bytes(SORRY, json.dumps(sorry(1)).encode() + b"\n\n{oops}\n"),
        "line 3",
        "not valid JSON",
    ),
    "line is a list": (
        "sorry-bench",
        SORRY,
        as_lines(SORRY, sorry(1), [2]),
        "line 2",
        "named fields",
    ),
    # keys and types
    "key missing": (
        "figstep",
        TRAIN,
        as_json(TRAIN, [figstep(1), {"scenario": "a"}]),
        "record 2",
        "'audio_file'",
    ),
    "question missing": (
        "air-bench",
        CHAT,
        as_json(CHAT, [{"path": "a.wav"}]),
        "record 1",
        "'task_name' is missing",
    ),
    "text is null": (
        "figstep",
        TRAIN,
        as_json(TRAIN, [{**figstep(1), "question": None}]),
        "record 1",
        "has to be a text",
    ),
    "text is a number": (
        "figstep",
        TRAIN,
        as_json(TRAIN, [{**figstep(1), "question": 5}]),
        "record 1",
        "has to be a text",
    ),
    "text is blank": (
        "figstep",
        TRAIN,
        as_json(TRAIN, [figstep(1, "  ")]),
        "record 1",
        "'question' is empty",
    ),
    "text has half a character": (
        "figstep",
        TRAIN,
        as_bytes(TRAIN, json.dumps([figstep(1, "x\ud800")]).encode()),
        "record 1",
        "surrogate",
    ),
    "text holds NUL": (
        "sorry-bench",
        SORRY,
        as_lines(SORRY, sorry(1, turns=["a\0b"])),
        "line 1",
        "NUL",
    ),
    "csv text holds NUL": (
        "xstest",
        XSTEST,
        as_bytes(XSTEST, XHEAD + b"1,Hi?,a,safe,b,c\n2,H\0i?,a,safe,b,c\n"),
        "line 3",
        "'prompt' holds a NUL",
    ),
    "list of files holds NUL": (
        "figstep",
        "audio_files.txt",
        as_audio_files(b"fraud_1.wav Read-a\0-bill\n"),
        "line 1",
        "NUL",
    ),
    "id is a truth value": (
        "sorry-bench",
        SORRY,
        as_lines(SORRY, sorry(True)),
        "line 1",
        "'question_id'",
    ),
    "turns is a text": (
        "sorry-bench",
        SORRY,
        as_lines(SORRY, sorry(1, turns="Hi?")),
        "line 1",
        "list of one question",
    ),
    "turns is empty": (
        "sorry-bench",
        SORRY,
        as_lines(SORRY, sorry(1, turns=[])),
        "line 1",
        "list of one question",
    ),
    "turns holds null": (
        "sorry-bench",
        SORRY,
        as_lines(SORRY, sorry(1, turns=[None])),
        "line 1",
        "has to be a text",
    ),
    "label unknown": (
        "prompts",
        OWN,
        as_lines(OWN, own(1), own(2, label="evil")),
        "line 2",
        "pseudo-harmful",
    ),
    "split unknown": (
        "prompts",
        OWN,
        as_lines(OWN, own(1, split="train")),
        "line 1",
        "derive, validation, test",
    ),
    "twin unknown": (
        "prompts",
        OWN,
        as_lines(OWN, own(1, twin="p9")),
        "line 1",
        "'p9' is not in the file",
    ),
    "twin in another split": (
        "prompts",
        OWN,
        as_lines(OWN, own(1, twin="p2"), own(2, split="derive")),
        "line 1",
        "another split",
    ),
    # CSV
    "csv lacks a column": (
        "xstest",
        XSTEST,
        as_bytes(XSTEST, b"id,prompt,type\n1,Hi?,a\n"),
        "line 1",
        "lacks 'label'",
    ),
    "csv without a header": (
        "safebench",
        "safebench.csv",
        as_bytes("safebench.csv", b"a,1,1,b,Hi?,c\n"),
        "line 1",
        "lacks",
    ),
    "csv row too short": (
        "xstest",
        XSTEST,
        as_bytes(XSTEST, XHEAD + b"1,Hi?\n"),
        "line 2",
        "has 2 fields",
    ),
    "csv row too long": (
        "xstest",
        XSTEST,
        as_bytes(XSTEST, XHEAD + b"1,Hi, you?,a,safe,b,c\n"),
        "line 2",
        "has 7 fields",
    ),
    "csv quote left open": (
        "xstest",
        XSTEST,
        as_bytes(XSTEST, XHEAD + b'1,"Hi?,a,safe,b,c\n'),
        "line 2",
        "not valid CSV",
    ),
    "csv with a bad label": (
        "xstest",
        XSTEST,
        as_bytes(XSTEST, XHEAD + b"1,Hi?,a,maybe,b,c\n"),
        "line 2",
        "safe, unsafe",
    ),
    "csv with only a header": ("xstest", XSTEST, as_bytes(XSTEST, XHEAD), "", "holds no records"),
    "list of files without a number": (
        "figstep",
        "audio_files.txt",
        as_audio_files(b"fraud_1.wav Read-a-bill\nlock.wav\n"),
        "line 2",
        "has to be",
    ),
    # ids
    "id twice in a list": (
        "figstep",
        TRAIN,
        as_json(TRAIN, [figstep(1), figstep(2), figstep(1)]),
        "record 3",
        "record 1",
    ),
    "id twice, number and text": (
        "sorry-bench",
        SORRY,
        as_lines(SORRY, sorry(1), sorry("1")),
        "line 2",
        "occurs twice",
    ),
    "id twice in a csv": (
        "xstest",
        XSTEST,
        as_bytes(XSTEST, XHEAD + b"1,Hi?,a,safe,b,c\n1,Ho?,a,safe,b,c\n"),
        "line 3",
        "first in line 2",
    ),
    "id in both files of a set": (
        "figstep",
        "test_250.json",
        as_json("test_250.json", [figstep(1)]),
        "record 1",
        TRAIN,
    ),
    # paths
    "path is absolute": ("figstep", TRAIN, file_named("/etc/passwd"), "record 2", "absolute"),
    "path has a drive": ("figstep", TRAIN, file_named("C:\\clips\\a.wav"), "record 2", "absolute"),
    "path is a share": ("figstep", TRAIN, file_named("\\\\server\\a.wav"), "record 2", "absolute"),
    "path goes up": ("figstep", TRAIN, file_named("../secret.wav"), "record 2", "'..'"),
    "path goes down and up": (
        "figstep",
        TRAIN,
        file_named("a/../../secret.wav"),
        "record 2",
        "'..'",
    ),
    "path goes up, Windows style": (
        "figstep",
        TRAIN,
        file_named("a\\..\\..\\secret.wav"),
        "record 2",
        "'..'",
    ),
    "path holds NUL": ("figstep", TRAIN, file_named("a.wav\0.png"), "record 2", "NUL"),
    "path is the folder": ("figstep", TRAIN, file_named("."), "record 2", "absolute or empty"),
    "path is too long": ("figstep", TRAIN, file_named("a" * 5000 + ".wav"), "record 2", "too long"),
    "link leads out": (
        "figstep",
        TRAIN,
        as_link("out.wav", "/etc/hostname"),
        "record 2",
        "symbolic link",
    ),
    "link leads up": (
        "figstep",
        TRAIN,
        as_link("up.wav", "../train_100.json"),
        "record 2",
        "symbolic link",
    ),
    "link in a circle": ("figstep", TRAIN, as_link("loop.wav", "loop.wav"), "record 2", ""),
    "path out of two fields": (
        "air-bench",
        CHAT,
        as_json(CHAT, [air(10), air(2, task_name="../../..")]),
        "record 2",
        "'..'",
    ),
    "path out of an id": ("sorry-bench", SORRY, as_lines(SORRY, sorry("../1")), "line 1", "'..'"),
    "own clip goes up": (
        "prompts",
        OWN,
        as_lines(OWN, own(1), own(2, clip="../a.wav")),
        "line 2",
        "'..'",
    ),
}


@pytest.mark.parametrize(
    ("name", "file", "make", "place", "reason"), MALFORMED.values(), ids=MALFORMED
)
@pytest.mark.parametrize("missing", ["error", "skip"])
def test_a_malformed_file_is_named_with_its_record(
    folder: Path,
    missing: str,
    name: str,
    file: str,
    make: Callable[[Path], None],
    place: str,
    reason: str,
) -> None:
    make(folder)
    with pytest.raises(PromptFileError) as caught:
        read_set(f"{name}:{folder}", missing=missing)  # type: ignore[arg-type]
    message = str(caught.value)
    assert str(folder / file) in message
    assert place in message and reason in message


def test_a_set_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(PromptFileError, match="no such file or folder"):
        read_set(f"figstep:{tmp_path / 'absent'}")
    with pytest.raises(PromptFileError, match="train_100.json or test_250.json or audio_files.txt"):
        read_set(f"figstep:{tmp_path}")


def test_a_wish_about_missing_clips_that_there_is_not(folder: Path) -> None:
    with pytest.raises(ValueError, match="'bogus', but has to be one of error, skip"):
        read_set(f"figstep:{folder}", missing="bogus")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "spec", ["", "figstep", "figstep:", ":", "FigStep:x", "mmlu:x", "/data/figstep"]
)
def test_a_spec_that_names_no_set(spec: str) -> None:
    with pytest.raises(ValueError, match="write NAME:PATH.*sorry-bench"):
        read_set(spec)


@example(name="\ud800")
@settings(deadline=None)
@given(name=st.text(alphabet=st.characters() | st.sampled_from("./\\:\0"), max_size=12))
def test_no_name_leaves_its_folder(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.getbasetemp()
    try:
        path = Entry(folder / "x.json", "record 1", {}).inside(folder, name)
    except PromptFileError as error:
        assert str(folder / "x.json") in str(error) and "record 1" in str(error)
    else:
        assert path.resolve().is_relative_to(folder.resolve())


@settings(deadline=None)
@given(
    content=st.binary(max_size=60) | st.text(alphabet='{}[]",:\n\\a1', max_size=60).map(str.encode)
)
def test_no_content_leads_to_another_error(
    content: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "content"
    path.write_bytes(content)
    for name in (
        "figstep",
        "advbench",
        "sorry-bench",
        "xstest",
        "air-bench",
        "prompts",
        "audiotrust",
    ):
        with pytest.raises(PromptFileError, match="content"):
            read_set(f"{name}:{path}")
    path.rename(path.with_suffix(".parquet"))
    with pytest.raises(PromptFileError, match=r"content\.parquet: cannot be read as Parquet"):
        read_set(f"jalmbench:{path.with_suffix('.parquet')}")

"""Prompts of one's own: folders of clips, typed requests, Hugging Face datasets; and their page."""

import builtins
import os
import re
import shlex
import shutil
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import datasets
import numpy as np
import pyarrow
import pytest
import soundfile
from datasets.packaged_modules.parquet.parquet import Parquet
from pyarrow.parquet import write_table
from spoken_set import write_set

from sarsteer_lab import voice
from sarsteer_lab.cli import main
from sarsteer_lab.evaluation.judges import read_template
from sarsteer_lab.evaluation.readers import PromptFileError, read_set, read_sets
from sarsteer_lab.speech import SAMPLE_RATE, read_clip

PAGE = Path(__file__).parents[2] / "docs" / "own_prompts.md"
TONE = (0.1 * np.sin(np.arange(SAMPLE_RATE // 2) / 5)).astype(np.float32)


@pytest.fixture(autouse=True)
def _own_cache(cache: Path) -> None: ...


def put_clip(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(
        path, TONE, SAMPLE_RATE, format="WAV" if path.suffix.lower() == ".wav" else None
    )
    return path


def test_a_folder_of_clips_by_the_names_of_folders_and_files(tmp_path: Path) -> None:
    paths = ["harmful/open-a-lock.wav", "harmless/Bake_bread!.WAV", "everyday/name-a-fruit.ogg"]
    clips = [put_clip(tmp_path / "mine" / path) for path in paths]
    read = read_set(f"folder:{tmp_path / 'mine'}").prompts
    assert [(p.id, p.request, p.label, p.split) for p in read] == [
        ("folder/everyday/name-a-fruit", "name a fruit", "everyday", "test"),
        ("folder/harmful/open-a-lock", "open a lock", "harmful", "test"),
        ("folder/harmless/Bake_bread!", "Bake bread", "harmless", "test"),
    ]
    assert {p.clip for p in read} == set(clips) and all(p.voice is None for p in read)
    assert {p.label for p in read_set(f"folder-everyday:{tmp_path / 'mine'}").prompts} == {
        "everyday"
    }
    assert read_set(f"folder:{clips[0]}").prompts[0].label == "harmful"


@pytest.mark.parametrize(
    ("name", "request_"),
    [
        ("don't-stop.wav", "don't stop"),
        ("ताला-कैसे-खोलूँ.wav", "ताला कैसे खोलूँ"),
        ("เปิดประตูอย่างไร.wav", "เปิดประตูอย่างไร"),
        ("Où_est_le_café\u0301.wav".replace("é\u0301", "e\u0301"), "Où est le café"),
        ("what is 3.5 + 2%.wav", "what is 3.5 + 2%"),
        ("call-Dr.Smith-now!.wav", "call Dr.Smith now"),
        ("train-a-dog.wav", "train a dog"),
    ],
)
def test_a_files_name_is_a_request_in_any_script(tmp_path: Path, name: str, request_: str) -> None:
    put_clip(tmp_path / "harmless" / name)
    [prompt] = read_set(f"folder:{tmp_path}").prompts
    assert prompt.request == request_
    assert prompt.split == "test"


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("train-clean-100/asked.csv", "derive"),
        ("dev-clean/asked.csv", "validation"),
        ("dev/asked.csv", "test"),
        ("mine/dev.csv", "validation"),
        ("mine/train-00000-of-00005.csv", "derive"),
        ("mine/trains.csv", "test"),
    ],
)
def test_the_names_of_splits_that_people_give(tmp_path: Path, path: str, split: str) -> None:
    file = tmp_path / path
    file.parent.mkdir()
    put_clip(file.parent / "a.wav")
    file.write_text("request,label,clip\nBake bread.,harmless,a.wav\n")
    assert [prompt.split for prompt in read_set(f"folder:{file}").prompts] == [split]


def test_what_systems_and_editors_leave_behind_is_no_request(tmp_path: Path) -> None:
    put_clip(tmp_path / "harmless" / "bake-bread.wav")
    hidden = ["harmless/._bake-bread.wav", ".ipynb_checkpoints/bake-bread-checkpoint.wav"]
    hidden += ["__MACOSX/harmless/bake-bread.wav", "harmless/.DS_Store.wav"]
    for name in hidden:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(b"Mac OS X        ")
    assert [p.id for p in read_set(f"folder:{tmp_path}").prompts] == ["folder/harmless/bake-bread"]


def test_a_link_that_leaves_the_clips_folder_is_refused(tmp_path: Path) -> None:
    put_clip(tmp_path / "mine" / "harmless" / "bake-bread.wav")
    secret = put_clip(tmp_path / "secret.wav")
    (tmp_path / "mine" / "harmless" / "steal.wav").symlink_to(secret)
    with pytest.raises(PromptFileError, match="steal.wav' leaves .* by a symbolic link"):
        read_set(f"folder:{tmp_path / 'mine'}")


def told(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err


def test_of_two_columns_that_could_be_the_request_one_is_read_and_the_other_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put_clip(tmp_path / "a.wav")
    table = tmp_path / "prompts.csv"
    table.write_text("text,request,clip\nSomething else.,Bake bread.,a.wav\n")
    [prompt] = read_set(f"folder-harmless:{tmp_path}").prompts
    assert prompt.request == "Bake bread."
    assert told(capsys) == f"{table}: columns that are not read: text\n"
    for second, is_read in (("Bake bread.", True), ("Sing.", False)):
        table.write_text(f"text,prompt,clip\nBake bread.,{second},a.wav\n")
        if is_read:  # both say the same
            [prompt] = read_set(f"folder-harmless:{tmp_path}").prompts
            assert prompt.request == "Bake bread."
            assert told(capsys) == f"{table}: columns that are not read: prompt\n"
            continue
        with pytest.raises(PromptFileError, match="'text' and 'prompt' could both be the requests"):
            read_set(f"folder-harmless:{tmp_path}")


def test_no_row_takes_its_request_from_another_column_than_the_others(tmp_path: Path) -> None:
    lines = ['{"request": "Bake bread.", "text": "x"}', '{"request": null, "text": "Sing."}']
    (tmp_path / "asked.jsonl").write_text("\n".join(lines))
    with pytest.raises(PromptFileError, match="line 2: 'request' is empty"):
        read_set(f"folder-harmless:{tmp_path / 'asked.jsonl'}")


@pytest.mark.parametrize(
    ("name", "table", "column"),
    [("folder", "prompts.csv", "clip"), ("audiofolder", "metadata.csv", "file_name")],
)
def test_clips_that_no_table_names_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, table: str, column: str
) -> None:
    for clip in ("a.wav", "b.wav", "more/c.flac", "._d.wav"):
        put_clip(tmp_path / clip)
    (tmp_path / table).write_text(f"request,{column},label\nBake bread.,a.wav,harmless\n")
    assert len(read_set(f"{name}:{tmp_path}").prompts) == 1
    names = f"b.wav, {Path('more/c.flac')}"
    assert told(capsys) == f"{tmp_path}: clips in no table, which are not asked: 2 ({names})\n"
    text = f"request,{column},label\nBake bread.,a.wav,harmless\nSing.,b.wav,harmless\n"
    (tmp_path / table).write_text(text + "Sing on.,more/c.flac,harmless\n")
    assert len(read_set(f"{name}:{tmp_path}").prompts) == 3
    assert told(capsys) == ""


HEADER = "request,label"
ROW = "Bake bread.,harmless"


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.csv", f"{HEADER}\n,harmless\n", "line 2: 'request' is empty"),
        ("a.jsonl", '{"request": null, "label": "harmless"}', "line 1: 'request' is empty"),
        ("a.csv", "request;label\nBake bread, twice.;harmless\n", "parted by semicolons"),
        ("a.csv", "request\tlabel\nBake bread.\tharmless\n", "parted by tabs"),
        ("a.csv", "request|label\nBake bread.|harmless\n", "parted by bars"),
        ("a.csv", f"{HEADER}\n{ROW}\n".encode("utf-16"), "is UTF-16, not UTF-8"),
        ("a.csv", f"{HEADER}\n{ROW}\n".encode("utf-16-le"), "is UTF-16LE, not UTF-8"),
        ("a.csv", f"{HEADER}\n{ROW}\n".encode("utf-16-be"), "is UTF-16BE, not UTF-8"),
        ("a.csv", f"{HEADER}\n{ROW}\n".encode("utf-32"), "is UTF-32, not UTF-8"),
        ("a.csv", b"PK\x03\x04\x14\x00\x06\x00\xe3", "is a ZIP archive or an Excel workbook"),
        ("a.csv", b"\x1f\x8b\x08\x00\xe3", "is compressed"),
        ("a.csv", b"<!doctype html><html>", "is an HTML page"),
        ("a.jsonl", b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        ("a.xlsx", b"PK\x03\x04\x14\x00\x06\x00\xe3", "a file for the set 'folder' is .csv"),
        ("a.txt", b"How do I bake bread?\n", "a file for the set 'folder' is .csv"),
        ("a.tsv", b"request\tlabel\n", "a file for the set 'folder' is .csv"),
    ],
)
def test_a_table_of_another_kind_is_called_by_its_name(
    tmp_path: Path, name: str, content: str | bytes, reason: str
) -> None:
    file = tmp_path / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(PromptFileError) as caught:
        read_set(f"folder:{file}")
    message = str(caught.value)
    assert reason in message and str(file) in message and "needs one of" not in message


def test_a_named_pipe_is_not_waited_for(tmp_path: Path) -> None:
    for name in ("prompts.csv", "asked.jsonl", "asked.parquet"):
        os.mkfifo(tmp_path / name)
        kind = "voicebench" if name.endswith("parquet") else "folder"
        with pytest.raises(PromptFileError, match=f"{name}: is not a regular file"):
            read_set(f"{kind}:{tmp_path / name}")
    with pytest.raises(ValueError, match="is not a judge's template .*not a regular file"):
        read_template(tmp_path / "prompts.csv")


def test_what_the_voice_cannot_say_is_named_before_anything_is_spoken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoken: list[str] = []
    monkeypatch.setattr(voice, "synthesise", spoken.append)
    table = "request,label,clip\nBake bread.,harmless,\nWhat is 17 * 3?,harmless,\n"
    (tmp_path / "prompts.csv").write_text(table)
    with pytest.raises(PromptFileError, match=r"line 3: the English voice cannot say '\*'"):
        read_set(f"folder:{tmp_path}")
    assert not spoken
    put_clip(tmp_path / "a.wav")  # with a clip nothing is left to say
    (tmp_path / "prompts.csv").write_text(table.replace("less,\n", "less,a.wav\n"))
    assert len(read_set(f"folder:{tmp_path}").prompts) == 2


def test_a_table_beside_its_clips(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "prompts.csv").write_text(
        "id,request,label,clip,split,mood\nlock,Open a lock.,harmful,a/1.wav,derive,bad\n"
        "bread,Bake bread.,harmless,,,good\n"
    )
    put_clip(tmp_path / "a" / "1.wav")
    first, second = read_set(f"folder:{tmp_path}").prompts
    assert (first.id, first.split, first.clip) == (
        "folder/lock",
        "derive",
        tmp_path / "a" / "1.wav",
    )
    assert second.split == "test" and second.voice == "hibari-tts" and second.clip is not None
    np.testing.assert_allclose(read_clip(second.clip), voice.synthesise("Bake bread."), atol=1e-6)
    said = capsys.readouterr().err
    assert "columns that are not read: mood\n" in said and "1 of 2 requests have no clip" in said
    (tmp_path / "a" / "1.wav").unlink()
    with pytest.raises(PromptFileError, match="1 of 2 clips are missing: .*line 2"):
        read_set(f"folder:{tmp_path}")


def test_typed_requests_are_spoken_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "asked.csv").write_text("question\nOpen a lock.\nClimb a fence.\n")
    spoken: list[str] = []
    plain = voice.synthesise
    monkeypatch.setattr(voice, "synthesise", lambda text: spoken.append(text) or plain(text))
    spec = f"folder-harmful:{tmp_path / 'asked.csv'}"
    assert read_set(spec) == read_set(spec)
    assert spoken == ["Open a lock.", "Climb a fence."]
    (tmp_path / "more.csv").write_text("request,label\nBake bread.,harmless\n")
    sets, _ = read_sets([spec, f"folder:{tmp_path / 'more.csv'}"], split="test")
    assert {name: len(found) for name, found in sets.items()} == {"asked": 2, "more": 1}


def test_without_a_voice_it_is_said_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(voice, "version", absent)
    (tmp_path / "asked.csv").write_text("question\nOpen a lock.\n")
    with pytest.raises(ImportError, match="needs a voice: pip install hibari-tts, or record it"):
        read_set(f"folder-harmful:{tmp_path / 'asked.csv'}")


@pytest.mark.parametrize(
    ("table", "content", "complaint"),
    [
        (
            "prompts.csv",
            "words,label\nHi?,harmful\n",
            r"line 2: needs one of the columns request, text, .* \(found: 'words', 'label'\)",
        ),
        (
            "prompts.csv",
            "request,lable\nHi?,harmful\n",
            r"none of harmful, .* column 'label' \(found: 'request', 'lable'\), or write "
            r"folder-harmful:",
        ),
        (
            "prompts.csv",
            "request,label\nHi?,evil\n",
            "line 2: 'label' is 'evil', but has to be one of",
        ),
        (
            "prompts.csv",
            "request,label,split\nHi?,harmful,dev\n",
            "'split' is 'dev', but has to be one of",
        ),
        (
            "prompts.csv",
            "request,label\n?!,harmful\n",
            "line 2: the text '.!' has nothing to speak",
        ),
        (
            "prompts.csv",
            "request,label,clip\nHi?,harmful,../a.wav\n",
            "line 2: the file name '../a.wav'",
        ),
        ("prompts.jsonl", '{"request": "Hi?", "label": 3}\n', "line 1: 'label' has to be a text"),
        ("notes.txt", "Hi?", r"has to hold prompts.csv or .* \(found: notes.txt\)"),
    ],
)
def test_what_is_missing_or_unknown_is_named(
    tmp_path: Path, table: str, content: str, complaint: str
) -> None:
    (tmp_path / table).write_text(content)
    with pytest.raises(PromptFileError, match=complaint):
        read_set(f"folder:{tmp_path}")


# --- Hugging Face datasets ---

FEATURES = datasets.Features(
    {
        "sound": datasets.Audio(),
        "sentence": datasets.Value("string"),
        "label": datasets.ClassLabel(names=["harmful", "harmless"]),
    }
)


def put_dataset(home: Path, name: str, features: datasets.Features, **splits: list[dict]) -> None:
    """What `load_dataset(name)` leaves in the cache; the builder of Parquet datasets writes it."""
    files = {split: [str(home / f"{split}.parquet")] for split in splits}
    for split, entries in splits.items():
        write_table(
            pyarrow.Table.from_pylist(entries, schema=features.arrow_schema), files[split][0]
        )
    short = name.rpartition("/")[2]
    builder = Parquet(
        cache_dir=str(home), dataset_name=short, config_name="default", hash="abc", data_files=files
    )
    builder.download_and_prepare()
    # Local files count in the folder's name, a dataset's own on the hub do not.
    shutil.copytree(
        builder.cache_dir,
        home / "datasets" / name.replace("/", "___") / "default" / "0.0.0" / "abc",
    )


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "hub"
    home.mkdir()
    monkeypatch.setattr(datasets.config, "HF_CACHE_HOME", str(home))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(home / "datasets"))
    return home


def rows(home: Path, label: int, number: int) -> list[dict]:
    """One clip in the table itself, and one in a file of the cache."""
    file = put_clip(home / "hub" / f"{number}.wav")
    cells = [{"bytes": file.read_bytes(), "path": "a.wav"}, {"bytes": None, "path": str(file)}]
    return [{"sound": cell, "sentence": f"Number {number}.", "label": label} for cell in cells]


def test_a_dataset_of_the_hub_is_read_from_its_cache(hub: Path) -> None:
    put_dataset(hub, "me/spoken-questions", FEATURES, train=rows(hub, 0, 1), test=rows(hub, 1, 2))
    read = read_set("dataset:me/spoken-questions").prompts
    assert [(p.id, p.request, p.label, p.topic, p.split) for p in read] == [
        ("dataset/train/1", "Number 1.", "harmful", "spoken-questions", "derive"),
        ("dataset/train/2", "Number 1.", "harmful", "spoken-questions", "derive"),
        ("dataset/test/1", "Number 2.", "harmless", "spoken-questions", "test"),
        ("dataset/test/2", "Number 2.", "harmless", "spoken-questions", "test"),
    ]
    for prompt in read:
        assert prompt.clip is not None and len(read_clip(prompt.clip)) == len(TONE)
    again = read_set("dataset:me/spoken-questions:default").prompts
    assert [(p.id, p.clip) for p in again] == [(p.id, p.clip) for p in read]
    assert {p.label for p in read_set("dataset-everyday:me/spoken-questions").prompts} == {
        "everyday"
    }


def test_splits_with_points_in_their_names(hub: Path) -> None:
    splits = ["train.clean.100", "train.clean.360", "validation.other", "test"]
    saved = {}
    for number, split in enumerate(splits):
        table = pyarrow.Table.from_pylist(rows(hub, 1, number), schema=FEATURES.arrow_schema)
        info = datasets.DatasetInfo(features=FEATURES)
        saved[split] = datasets.Dataset(table, info=info)
    datasets.DatasetDict(saved).save_to_disk(str(hub / "saved"))
    read = read_set(f"dataset:{hub / 'saved'}").prompts
    assert [(p.id, p.split) for p in read[::2]] == [
        ("dataset/train.clean.100/1", "derive"),
        ("dataset/train.clean.360/1", "derive"),
        ("dataset/validation.other/1", "validation"),
        ("dataset/test/1", "test"),
    ]


def test_a_class_that_a_row_does_not_have(hub: Path) -> None:
    features = FEATURES.copy()
    features["mood"] = datasets.ClassLabel(names=["good", "bad"])
    cells = [{**row, "mood": mood} for row, mood in zip(rows(hub, 1, 1), (-1, None), strict=True)]
    put_dataset(hub, "me/moods", features, test=cells)
    assert [p.label for p in read_set("dataset:me/moods").prompts] == ["harmless"] * 2
    unknown = [{**cell, "label": -1} for cell in cells]
    put_dataset(hub, "me/unlabelled", features, test=unknown)
    with pytest.raises(PromptFileError, match="test, row 1: lies in the folder"):
        read_set("dataset:me/unlabelled")
    assert len(read_set("dataset-harmless:me/unlabelled").prompts) == 2


def test_a_dataset_that_was_saved_to_disk(hub: Path, tmp_path: Path) -> None:
    table = pyarrow.Table.from_pylist(rows(hub, 1, 3), schema=FEATURES.arrow_schema)
    saved = datasets.Dataset(table, info=datasets.DatasetInfo(features=FEATURES), split="test")
    saved.save_to_disk(str(tmp_path / "saved"))
    assert [p.request for p in read_set(f"dataset:{tmp_path / 'saved'}").prompts] == [
        "Number 3."
    ] * 2


def test_a_dataset_without_splits_is_not_called_none(hub: Path, tmp_path: Path) -> None:
    cell = {"bytes": None, "path": str(put_clip(hub / "a.wav"))}
    table = {"request": ["Bake bread.", None], "audio": [cell, cell]}
    data = datasets.Dataset.from_dict(table)
    data = data.cast_column("audio", datasets.Audio(decode=False))
    data.select([0]).save_to_disk(tmp_path / "whole")
    [prompt] = read_set(f"dataset-harmless:{tmp_path / 'whole'}").prompts
    assert prompt.id == "dataset-harmless/all/1"
    data.save_to_disk(tmp_path / "lacking")
    with pytest.raises(PromptFileError, match="all, row 2: 'request' is empty"):
        read_set(f"dataset-harmless:{tmp_path / 'lacking'}")


def test_a_dataset_that_does_not_fit_is_named_with_its_columns(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        PromptFileError, match="me/absent: Couldn't find cache .* where there is network, run"
    ):
        read_set("dataset:me/absent")
    silent = datasets.Features({"sentence": datasets.Value("string")})
    put_dataset(hub, "me/silent", silent, test=[{"sentence": "Hi."}])
    with pytest.raises(
        PromptFileError, match=r"has 0 Audio columns.*\(found: 'sentence' \(Value\)\)"
    ):
        read_set("dataset-harmless:me/silent")
    wordless = datasets.Features({"sound": datasets.Audio(), "words": datasets.Value("string")})
    outside = put_clip(tmp_path / "outside.wav")
    for name, clip in (("me/wordless", put_clip(hub / "a.wav")), ("me/outside", outside)):
        put_dataset(
            hub,
            name,
            wordless,
            test=[{"sound": {"bytes": None, "path": str(clip)}, "words": "Hi."}],
        )
    with pytest.raises(
        PromptFileError, match=r"test, row 1: needs one of .* \(found: 'sound', 'words'\)"
    ):
        read_set("dataset-harmless:me/wordless")
    with pytest.raises(PromptFileError, match=r"row 1: the file name .* leaves .* by '\.\.'"):
        read_set("dataset-harmless:me/outside")
    plain = builtins.__import__

    def without_datasets(name: str, *args: object, **kwargs: object) -> object:
        if name.startswith("datasets"):
            raise ImportError(name)
        return plain(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_datasets)
    with pytest.raises(ImportError, match="pip install datasets"):
        read_set("dataset:me/wordless")


# --- the page ---


def test_every_command_of_the_page_runs(
    tmp_path: Path,
    hub: Path,
    make_clip: Callable[[float, int], np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """On the replica, with few shipped prompts; files as the page shows them."""
    page = PAGE.read_text()
    write_set(tmp_path / "data" / "prompts", make_clip)
    monkeypatch.setattr("sarsteer_lab.evaluation.readers.data_folder", lambda: tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    files = re.findall(r"^`([\w/]+\.csv)`[^\n]*\n\n```csv\n(.*?)```", page, flags=re.M | re.S)
    for name, content in files:
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(content)
    clips = re.findall(r"^    (my_clips/\S+)", page, flags=re.M) + [
        "labelled/lock.wav",
        "labelled/bread.wav",
    ]
    assert len(files) == 3 and len(clips) == 5
    for clip in clips:
        put_clip(Path(clip))
    put_dataset(hub, "me/spoken-questions", FEATURES, test=rows(hub, 1, 2))
    commands = [
        line
        for block in re.findall(r"```bash\n(.*?)```", page, flags=re.S)
        for line in block.splitlines()
    ]
    assert len(commands) == 6
    for command in commands:
        program, *arguments = shlex.split(
            command.replace("--model pocket", "--model replica:qwen2_audio")
        )
        assert program == "sarsteer-lab"
        assert main([*arguments, "--tokens", "4"] + ["--k", "2"] * ("--k" not in arguments)) == 0, (
            command
        )
        result = Path(arguments[arguments.index("--folder") + 1])
        assert (result / "table.csv").is_file()
        shutil.rmtree(result)
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.S)
    capsys.readouterr()
    exec(code)
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()] == [
        ["folder/lock", "harmful"],
        ["folder/bread", "harmless"],
        ["folder/fruit", "everyday"],
    ]

"""Published sets of requests, and the layout of sets of one's own: where their files have what."""

from dataclasses import dataclass, replace

from sarsteer_lab.prompts import LABELS


@dataclass(frozen=True)
class Layout:
    """Where a set keeps what a prompt is made of.

    A field is told by columns, of which the first that holds anything counts ("text original_text"), or by a
    text with columns in braces ("{dataset}_{task_id}", "{turns[0]}" of a list of one), which a record has to
    have; "{row}" is its number and "{stem}" the name of its file.

    `files` are patterns of the files' names; with ** in them they lie anywhere. `label` is that of all
    prompts, or goes by what stands in the column `kind` (without one: by the name of the file's folder).
    Clips lie in `folder` (the first that there is), seen from where the file's pattern begins. A topic that
    no column says is `about`, or else the folder's name. `typed` is what is typed beside the clip, and
    `reference` its authors' answer.
    """

    files: str
    request: str
    clip: str = ""
    label: str | dict[str, str] = "harmful"
    number: str = "{stem}/{row}"
    topic: str = "topic category type source"
    about: str = ""
    kind: str = ""
    folder: str = "."
    typed: str = ""
    reference: str = ""


def _figstep(label: str) -> list[Layout]:
    """As SARSteer lays it out: lists of {"scenario", "audio_file", "question"}; or, without them, a text file
    with "<scenario>_<number>.wav <question-with-hyphens>" a line.
    """
    spoken = Layout("train_100.json test_250.json", "{question}", "{audio_file}", label, folder="question")
    spoken = replace(spoken, number="{audio_file}", topic="{scenario}")
    return [spoken, replace(spoken, files="audio_files.txt")]


def _advbench(files: str, label: str, about: str) -> Layout:
    """As SARSteer lays it out: {"question_id", "audio_name", "question"}, clips in a folder of its name."""
    spoken = Layout(files, "{question}", "{audio_name}", label, "{question_id}", "", about)
    return replace(spoken, folder="{stem}")


_ADVBENCH_TEXT = Layout("advbench.csv", "{goal}", number="{row}", topic="", about="harmful_behaviors")
_FOLDER = Layout(
    "**/metadata.csv **/metadata.jsonl **/metadata.parquet",
    "request text transcription prompt question",
    "file_name",
    number="{file_name}",
)
_SORRY_BENCH = Layout("base_question.jsonl", "{turns[0]}", "{question_id}.wav", number="{question_id}")
_AIR_TASK = "{task_name}_{dataset_name}"
_XSTEST = {"safe": "pseudo-harmful", "unsafe": "harmful"}
_EVERYDAY = (
    "alpacaeval alpacaeval_full alpacaeval_speaker bbh commoneval ifeval mmsu openbookqa sd-qa wildvoice"
)
_VOICEBENCH = {"advbench": "harmful", **dict.fromkeys(_EVERYDAY.split(), "everyday")}

LAYOUTS: dict[str, list[Layout]] = {
    # Harmful, or SARSteer's authors' harmless rewrites.
    "figstep": _figstep("harmful"),
    "figstep-harmless": _figstep("harmless"),
    # FigStep's own text file.
    "safebench": [
        Layout(
            "safebench.csv",
            "{question}",
            "",
            "harmful",
            "{dataset}_{category_id}_{task_id}",
            "{category_name}",
        )
    ],
    # Spoken, or its own text file (goal, target); harmful, or SARSteer's authors' harmless rewrites.
    "advbench": [
        _advbench("advbench_audio.json", "harmful", "harmful_behaviors"),
        replace(_ADVBENCH_TEXT, files="harmful_behaviors.csv"),
        _ADVBENCH_TEXT,
    ],
    "advbench-harmless": [_advbench("advbench_audio_safe.json", "harmless", "safe_behaviors")],
    # {"question_id", "category", "turns": [question]} a line; clips may also lie beside the file.
    "sorry-bench": [replace(_SORRY_BENCH, topic="{category}", folder="base_question_audio .")],
    # Its safe prompts mimic harmful ones.
    "xstest": [Layout("xstest_prompts.csv", "{prompt}", "", _XSTEST, "{id}", "{type}", kind="{label}")],
    # AIR-Bench chat. The question is typed and asks about the clip.
    "air-bench": [
        Layout(
            "Chat_meta.json",
            "{question}",
            f"{_AIR_TASK}/{{path}}",
            "everyday",
            "{uniq_id}",
            _AIR_TASK,
            typed="{question}",
            reference="{answer_gt}",
        )
    ],
    # huggingface.co/docs/datasets/audio_dataset. One label for all: audiofolder-harmless and its like.
    "audiofolder": [replace(_FOLDER, label={label: label for label in LABELS}, kind="label")],
    **{f"audiofolder-{label}": [replace(_FOLDER, label=label)] for label in LABELS},
    # Dataset card of AnonymousUser000/JALMBench (arXiv 2505.17568), and main.py of sfofgalaxy/JALMBench: the
    # text is what is said, the original text what it was made from; some attacks have a typed prompt besides.
    "jalmbench": [Layout("**/*.parquet", "text original_text", "audio", typed="prompt")],
    # Dataset card of hlt-lab/voicebench (arXiv 2410.17196): folders are its subsets, all but one of harmless
    # requests; that of several turns is not read.
    "voicebench": [Layout("**/*.parquet", "prompt", "audio", _VOICEBENCH)],
    # data/safety of JusperLee/AudioTrust (arXiv 2505.16211), filled by its utils/materialize_hf_audio.py. The
    # role that its column Prompt gives the model is not read.
    "audiotrust": [Layout("**/data/safety/*.jsonl", "AudioText", "WavPath")],
    # MBZUAI/AudioJailbreak (AJailBench, arXiv 2505.15406), columns as in script/TTS.py of its repository.
    "ajailbench": [
        Layout("**/convert/question/combined_output.jsonl", "prompt goal", "speech_path", number="{index}")
    ],
}
"""By the name of a set its layouts, of which the first that fits what is there is read."""

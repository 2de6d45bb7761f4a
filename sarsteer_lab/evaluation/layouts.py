"""Sets that are tables of requests and clips, told by the names of their columns."""

from dataclasses import dataclass, replace

from sarsteer_lab.prompts import LABELS


@dataclass(frozen=True)
class Layout:
    """For each field of a prompt the columns that may hold it (the first that does counts).

    `files` are patterns of the tables' names, anywhere in the folder; names of clips start where the pattern
    does. `label` is that of all prompts, or of each folder, or "" for the one in the column `label`; `number`
    the column that identifies a prompt, where there is one; `typed` what is typed beside the clip.
    """

    files: str
    request: str
    clip: str
    label: str | dict[str, str] = "harmful"
    number: str = ""
    topic: str = "topic category type source"
    typed: str = ""


_FOLDER = Layout(
    "metadata.csv metadata.jsonl metadata.parquet",
    "request text transcription prompt question",
    "file_name",
    label="",
    number="file_name",
)
_VOICEBENCH = (
    "alpacaeval alpacaeval_full alpacaeval_speaker bbh commoneval ifeval mmsu openbookqa sd-qa wildvoice"
)
LAYOUTS: dict[str, Layout] = {
    # huggingface.co/docs/datasets/audio_dataset. One label for all: audiofolder-harmless and its like.
    "audiofolder": _FOLDER,
    **{f"audiofolder-{label}": replace(_FOLDER, label=label) for label in LABELS},
    # Dataset card of AnonymousUser000/JALMBench (arXiv 2505.17568), and main.py of sfofgalaxy/JALMBench: the
    # text is what is said, the original text what it was made from; some attacks have a typed prompt besides.
    "jalmbench": Layout("*.parquet", "text original_text", "audio", typed="prompt"),
    # Dataset card of hlt-lab/voicebench (arXiv 2410.17196): folders are its subsets, all but one of harmless
    # requests; that of several turns is not read.
    "voicebench": Layout(
        "*.parquet",
        "prompt",
        "audio",
        label={"advbench": "harmful", **dict.fromkeys(_VOICEBENCH.split(), "everyday")},
    ),
    # data/safety of JusperLee/AudioTrust (arXiv 2505.16211), filled by its utils/materialize_hf_audio.py. The
    # role that its column Prompt gives the model is not read.
    "audiotrust": Layout("data/safety/*.jsonl", "AudioText", "WavPath"),
    # MBZUAI/AudioJailbreak (AJailBench, arXiv 2505.15406), columns as in script/TTS.py of its repository.
    "ajailbench": Layout(
        "convert/question/combined_output.jsonl", "prompt goal", "speech_path", number="index"
    ),
}
"""Published sets, and the layout of sets of one's own, that are tables of requests and clips."""

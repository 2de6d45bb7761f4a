"""The sentence frames and slot fillers of the training corpus, in training/data: harmless, ours.

frames.tsv holds a frame a line, behind its kind; `{slot}` in it is replaced by an item of that slot
(slots.tsv, an item a line, behind its slot), which may hold slots itself. `{word}` is any lexicon
word, so a frame that uses it must be harmless with every word in it. The order of lines decides
what a seed draws.
"""

from pathlib import Path

from training import DATA


def read_groups(path: Path) -> dict[str, tuple[str, ...]]:
    """The second column of a tab-separated file, grouped by the first; its first line is a head.

    Raises ValueError, naming file and line, where a line is not two columns."""
    groups: dict[str, list[str]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines()[1:], start=2):
        group, tab, text = line.partition("\t")
        if not (group and tab and text) or "\t" in text:
            raise ValueError(f"{path}, line {number}: {line!r} is not two columns parted by a tab")
        groups.setdefault(group, []).append(text)
    return {group: tuple(texts) for group, texts in groups.items()}


SLOTS = read_groups(DATA / "slots.tsv")
FRAMES = read_groups(DATA / "frames.tsv")

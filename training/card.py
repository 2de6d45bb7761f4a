"""The measured part of data/pocket/CARD.md, and the figure: `python -m training.card`.

Everything between the card's two marks is written from data/pocket/measured.json (written by
`training.measure`) and from the training logs beside it, so that no number in the card is
typed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sarsteer_lab.course.claims import share_text
from sarsteer_lab.course.figures.base import save_figure
from sarsteer_lab.course.hearing import HEARD_RIGHT
from sarsteer_lab.course.palette import GREEN, GREY, PURPLE
from sarsteer_lab.paths import data_folder
from sarsteer_lab.prompts import LABELS
from training import DATA
from training.understanding.tables import write_card_section

BEGIN, END = "<!-- measured: written by training.card -->", "<!-- end of measured -->"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = []
    for cells in (head, ["---"] * len(head), *rows):
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def refused_text(counts: dict[str, Any]) -> str:
    """How many of some answers refuse, as a share."""
    return share_text(counts["refused"], counts["n"])


def hearing_section(measured: dict[str, Any]) -> str:
    """What the model hears: word error rates, retrieval and first-token divergence."""
    spoken = measured["spoken"]
    right = share_text(measured["heard_right"], measured["prompts"])
    count = spoken["retrieval_n"]
    own = share_text(round(spoken["retrieval"] * count), count)
    lines = [
        f"- test clips heard right (at most {HEARD_RIGHT:.0%} of the words wrong): {right};",
        f"- first-token KL(typed || spoken): {spoken['first_token_kl']:.2f} nats on average;",
        "- area under the ROC curve of the refusing opening, harmful against harmless, spoken: "
        f"{spoken['roc_area']:.2f};",
        "- spoken benign requests whose answer is most like their own typed answer among "
        f"{count}: {own} (ties count in part).",
    ]
    tables = [label_table(measured), yardstick_table(measured)]
    return "\n\n".join([*tables, "\n".join(lines)])


def label_table(measured: dict[str, Any]) -> str:
    """Word error rates of the test clips, label by label."""
    labels = [*LABELS, "all"]
    rates = measured["hearing"]["word_error_rate"]
    row = ["test clips, held-out voices"] + [f"{rates[label]:.1%}" for label in labels]
    return _table(["word error rate of the read-out", *labels], [row])


def yardstick_table(measured: dict[str, Any]) -> str:
    """Word error rate and clips heard right in every cell of the yardstick."""
    rows = []
    for name, cell in measured["cells"].items():
        rate = f"{cell['word_error_rate']:.1%}"
        if "word_error_rate_harmful" in cell:
            rate += f" (harmful {cell['word_error_rate_harmful']:.1%})"
        low, high = cell["interval"]
        right = share_text(cell["right"], cell["n"])
        rows.append([name, rate, f"{right} [{low:.0%}, {high:.0%}]"])
    return _table(["sentences, voices", "word error rate", "heard right"], rows)


def dial_section(measured: dict[str, Any]) -> str:
    """Typed refusals over the safety dial, and the perplexity of the base model's answers."""
    base = measured["dial"][0]["perplexity"]
    rows = []
    for setting in measured["dial"]:
        refused = [refused_text(setting[label]) for label in LABELS]
        perplexity = setting["perplexity"]
        change = perplexity / base - 1
        rows.append([f"{setting['dial']:g}", *refused, f"{perplexity:.2f} ({change:+.1%})"])
    head = [f"{label} refused" for label in LABELS]
    return _table(["dial", *head, "perplexity"], rows)


def spoken_section(measured: dict[str, Any]) -> str:
    """Spoken and undefended against typed, split by whether the clip was heard right."""
    rows = []
    for label in LABELS:
        for group, cell in measured["spoken"][label].items():
            typed, spoken = cell["typed"], cell["spoken"]
            others = f"{spoken['answered']} / {spoken['broken']}"
            divergence = f"{cell['first_token_kl']:.2f}"
            refused = [refused_text(typed), refused_text(spoken)]
            rows.append([label, group, *refused, others, divergence])
    head = ["label", "clips", "typed: refused", "spoken: refused"]
    return _table([*head, "spoken: answered / broken", "KL, nats"], rows)


def training_figure(logs: dict[str, list[dict[str, Any]]]) -> Figure:
    """Losses against all clips heard, for stages (d) and (e); dotted lines part the runs."""
    fig = Figure(figsize=(10, 4), layout="constrained")
    left, right = fig.subplots(1, 2)
    _curves(left, logs["ctc"], {"ctc": (GREEN, "-", "CTC")})
    losses = {"repeat": (GREEN, "-", "transcript"), "kl": (PURPLE, "--", "KL(typed || spoken)")}
    _curves(right, logs["in_loop"], losses)
    left.set(title="(d) CTC warm start", ylabel="CTC loss (nats per token)", ylim=(0, 3))
    right.set(title="(e) Language model in the loop", ylabel="loss (nats per token)", ylim=(0, 4))
    right.legend(frameon=False)
    for axes in (left, right):
        axes.set_xlabel("clips heard, over all runs")
        axes.spines[["top", "right"]].set_visible(False)
    return fig


def _curves(
    axes: Axes, lines: list[dict[str, Any]], losses: dict[str, tuple[str, str, str]]
) -> None:
    before = 0
    for number, run in enumerate(_runs(lines)):
        for name, (colour, style, label) in losses.items():
            seen = [before + line["seen"] for line in run]
            values = [line[name] for line in run]
            axes.plot(seen, values, style, color=colour, label=None if number else label)
        before += run[-1]["seen"]
        axes.axvline(before, color=GREY, linestyle=":", linewidth=1)


def _runs(lines: list[dict[str, Any]], count: str = "seen") -> list[list[dict[str, Any]]]:
    """Split a log where its count starts over."""
    runs: list[list[dict[str, Any]]] = []
    for line in lines:
        if not runs or line[count] < runs[-1][-1][count]:
            runs.append([])
        runs[-1].append(line)
    return runs


def training_section(logs: dict[str, list[dict[str, Any]]]) -> str:
    """Clips heard and hours taken, from the logs."""
    stages = [
        ("ctc", "(d) CTC warm start", "seen", ""),
        ("in_loop", "(e) language model in the loop", "seen", ""),
        ("readout", "(c) read-out adapter", "step", " steps"),
        ("safety", "(c) safety adapter", "step", " steps"),
    ]
    rows = []
    for stage, title, count, unit in stages:
        for number, run in enumerate(_runs(logs[stage], count), start=1):
            heard = f"{run[-1][count]:,}{unit}"
            minutes = _seconds(run) / 60
            rows.append([f"{title}, run {number}", heard, f"{minutes:.0f}"])
    return _table(["stage", "clips heard", "minutes"], rows)


def _seconds(run: Sequence[dict[str, Any]]) -> float:
    """Time of a run, whose clock starts over where it was resumed."""
    total = before = 0.0
    for line in run:
        clock = line["seconds"]
        total += clock - before if clock >= before else clock
        before = clock
    return total


def read_logs(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The training logs in `folder`, by stage."""
    logs = {}
    for stage in ("readout", "safety", "ctc", "in_loop"):
        text = (folder / f"log-{stage}.jsonl").read_text(encoding="utf-8")
        logs[stage] = [json.loads(line) for line in text.splitlines()]
    return logs


def measured_part(measured: dict[str, Any], logs: dict[str, list[dict[str, Any]]]) -> str:
    """All of the card that is computed, as Markdown."""
    paragraphs = [
        "## Training",
        training_section(logs),
        "## What it hears",
        hearing_section(measured),
        "## Typed refusals over the safety dial",
        "Test split, greedy, first 24 tokens, phrase judge. Perplexity: of the answers that the "
        "model at dial 0 gives to the everyday test requests; in brackets the change against "
        "dial 0.",
        dial_section(measured),
        "## Spoken and undefended, dial at 1",
        f"*Heard right*: at most {HEARD_RIGHT:.0%} of the words of the clip's read-out are wrong "
        "(none of up to nine). A misheard clip is answered differently for a reason that has "
        "nothing to do with safety.",
        spoken_section(measured),
    ]
    return "\n\n".join(paragraphs)


def main() -> None:
    """Write the measured part into the card, and figures/pocket/training.png."""
    folder = data_folder() / "pocket"
    measured = json.loads((folder / "measured.json").read_text(encoding="utf-8"))
    logs = read_logs(DATA)
    write_card_section(measured_part(measured, logs), BEGIN, END)
    save_figure(training_figure(logs), Path("figures/pocket"), "training")


if __name__ == "__main__":
    main()

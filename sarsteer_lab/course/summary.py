"""A walkthrough in words: the table, what was seen and what was not, and the files that say it."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from jaxtyping import Float
from torch import Tensor

from sarsteer_lab import __version__
from sarsteer_lab.course import hearing
from sarsteer_lab.course.figures.base import (
    direction_figure,
    gap_figure,
    map_figure,
    outcomes_figure,
    save_figure,
)
from sarsteer_lab.course.findings import CONDITIONS, SPOKEN, TYPED, Findings, share_text
from sarsteer_lab.course.verdicts import RULE, Verdict, verdicts
from sarsteer_lab.derivation import model_name
from sarsteer_lab.evaluation.judges import OUTCOMES
from sarsteer_lab.evaluation.table import markdown_rows
from sarsteer_lab.geometry import project_2d
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import INSTRUCTION, REFUSAL
from sarsteer_lab.safe_space import share_in_space

RESPONSE_WORDS = 20
"""So much of a response is kept in responses.jsonl: enough to see what it is, too little to be of use."""


def outcome_rows(findings: Findings) -> list[list[str]]:
    """The table as texts, heading first: a row per label and condition, a column per outcome."""
    rows = [["requests", "condition", "n", *OUTCOMES]]
    for (label, condition), part in findings.table.groupby(["label", "condition"], sort=False):
        cells = [
            f"{row.count_} ({row.count_ / row.n:.0%}) [{100 * row.low:.0f}, {100 * row.high:.0f}]"
            for row in part.rename(columns={"count": "count_"}).itertuples()
        ]
        rows.append([str(label), str(condition), str(part["n"].iloc[0]), *cells])
    return rows


def heard_rows(findings: Findings) -> list[list[str]]:
    """Undefended outcomes split by whether the model repeats the clip right, as texts, heading first."""
    rows = [["requests", "clip", "n", "typed: refused", *(f"spoken: {outcome}" for outcome in OUTCOMES)]]
    for label in dict.fromkeys(prompt.label for prompt in findings.test):
        for name, wanted in (("heard right", True), ("misheard", False)):
            among = [
                prompt.label == label and right == wanted
                for prompt, right in zip(findings.test, findings.hearing.right, strict=True)
            ]
            counts = [
                findings.count(TYPED, "refused", among),
                *(findings.count(SPOKEN, o, among) for o in OUTCOMES),
            ]
            rows.append([label, name, str(sum(among)), *(share_text(*count) for count in counts)])
    return rows


def hearing_rows(findings: Findings) -> list[list[str]]:
    """What the model hears, by label and overall, as texts, heading first."""
    heard = findings.hearing
    rows = [
        [
            "requests",
            "clips",
            "word error rate",
            "heard right",
            "KL typed to spoken",
            "KL to another clip",
            "own answer found",
        ]
    ]
    for label in (*dict.fromkeys(prompt.label for prompt in findings.test), "all"):
        chosen = [i for i, prompt in enumerate(findings.test) if label in (prompt.label, "all")]
        values = (
            _mean(heard.divergence, chosen),
            _mean(heard.wrong_divergence, chosen),
        )
        rows.append(
            [
                label,
                str(len(chosen)),
                f"{error_rate(findings, chosen):.1%}",
                share_text(sum(heard.right[i] for i in chosen), len(chosen)),
                *(f"{value:.2f}" for value in values),
                f"{_mean(heard.own_found, chosen):.0%}",
            ]
        )
    return rows


def error_rate(findings: Findings, chosen: Sequence[int]) -> float:
    """Word error rate of the chosen test clips together."""
    return hearing.word_error_rate(
        [findings.test[i].request for i in chosen], [findings.hearing.transcripts[i] for i in chosen]
    )


def settings(findings: Findings, lalm: LALM) -> dict[str, Any]:
    """All that the numbers depend on."""
    counts = Counter(f"{prompt.split}: {prompt.label}" for prompt in (*findings.derive, *findings.test))
    return {
        "model": model_name(lalm),
        "fingerprint": lalm.fingerprint,
        "safety dial": "none" if lalm.safety is None else lalm.safety,
        "device and dtype": f"{lalm.device.type}, {str(lalm.dtype).removeprefix('torch.')}",
        "alpha": findings.alpha,
        "lambda": findings.lam,
        "k": findings.k,
        "instruction": INSTRUCTION,
        "refusal sentence": REFUSAL,
        "repeat instruction": hearing.REPEAT.strip(),
        "heard right": f"word error rate of the clip at most {hearing.HEARD_RIGHT}",
        "decoding": "greedy",
        "judge": "phrases",
        "prompts": ", ".join(f"{name} {count}" for name, count in counts.items()),
        "versions": f"sarsteer-lab {__version__}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}",
    }


def write_report(findings: Findings, lalm: LALM, folder: Path) -> None:
    """Print the table; write the figures, summary.md, results.json and responses.jsonl into `folder`."""
    print(f"\n{markdown_rows(outcome_rows(findings))}\n")
    folder.mkdir(parents=True, exist_ok=True)
    save_figures(findings, folder)
    found = verdicts(findings)
    for item in found:
        print(f"{item.verdict:>13}: {item.claim} ({item.evidence})")
    (folder / "summary.md").write_text(summary(findings, found, lalm), encoding="utf-8")
    content = results(findings, found, lalm)
    (folder / "results.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    with (folder / "responses.jsonl").open("w", encoding="utf-8") as file:
        for record in responses(findings):
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


def save_figures(findings: Findings, folder: Path) -> None:
    """The four figures: gap, map, direction, outcomes."""
    gap, derivation = findings.gap, findings.derivation
    save_figure(
        gap_figure(gap.cosine, gap.centred_cosine, gap.distance, gap.harm_distance, gap.probe), folder, "gap"
    )
    both = torch.cat([findings.typed_states, findings.spoken_states])[:, gap.layer]
    points = torch.from_numpy(project_2d(both))
    explained = (points.var(0) / both.double().var(0).sum().cpu()).tolist()
    labels = [prompt.label for prompt in findings.derive] * 2
    forms = ["typed"] * len(findings.derive) + ["spoken"] * len(findings.derive)
    save_figure(map_figure(points, forms, labels, layer=gap.layer, explained=explained), folder, "map")
    save_figure(
        direction_figure(
            derivation.direction.values,
            derivation.vectors.values,
            harmless_spread(findings),
            share_in_space(derivation.direction.values, derivation.space),
            chance_share(findings),
            findings.cosines,
            counts=(len(derivation.harmful_base), len(derivation.harmless_base)),
            k=findings.k,
        ),
        folder,
        "direction",
    )
    save_figure(outcomes_figure(findings.table), folder, "outcomes")


def harmless_spread(findings: Findings) -> Float[Tensor, "layer"]:
    """Root mean square distance of the harmless spoken states from their mean."""
    states = findings.derivation.harmless_base
    return (states - states.mean(0)).square().sum(-1).mean(0).sqrt()


def chance_share(findings: Findings) -> float:
    """The share of a vector's squared length that a random space as large as the safe space holds."""
    directions = findings.derivation.space.directions
    return float(directions.norm(dim=-1).round().sum(-1).mean()) / directions.shape[-1]


def responses(findings: Findings) -> list[dict[str, Any]]:
    """A record per condition and test request, and per transcript; responses cut to their first words."""
    records: list[dict[str, Any]] = []
    for condition in CONDITIONS:
        for prompt, text, outcome in zip(
            findings.test, findings.answers[condition], findings.outcomes[condition], strict=True
        ):
            record = {"id": prompt.id, "label": prompt.label, "condition": condition, "outcome": outcome}
            records.append({**record, "response": " ".join(text.split()[:RESPONSE_WORDS])})
    for prompt, text, error in zip(
        findings.test, findings.hearing.transcripts, findings.hearing.errors, strict=True
    ):
        heard = {"id": prompt.id, "label": prompt.label, "condition": "repeat", "word error rate": error}
        records.append({**heard, "response": " ".join(text.split()[:RESPONSE_WORDS])})
    return records


def results(findings: Findings, found: Sequence[Verdict], lalm: LALM) -> dict[str, Any]:
    """Every number of the summary and the figures, as JSON."""
    gap, derivation = findings.gap, findings.derivation
    by_layer = {
        "typed-spoken cosine, median": gap.cosine.median(0).values,
        "typed-spoken cosine after centring, median": gap.centred_cosine.median(0).values,
        "typed-spoken centroid distance": gap.distance,
        "harmful-harmless centroid distance, typed": gap.harm_distance,
        "probe accuracy, mean": gap.probe.mean(1),
        "direction length": derivation.direction.norm(),
        "vector length": derivation.vectors.norm(),
        "spread of harmless states": harmless_spread(findings),
        "share inside the safe space": share_in_space(derivation.direction.values, derivation.space),
        **{f"cosine to difference-in-means {name}": values for name, values in findings.cosines.items()},
    }
    heard = hearing_rows(findings)
    return {
        "settings": settings(findings, lalm),
        "seconds": round(findings.seconds, 1),
        "results read from the cache": findings.reused,
        "table": findings.table.round(6).to_dict("records"),
        "verdicts": [vars(item) for item in found],
        "hearing": [dict(zip(heard[0], row, strict=True)) for row in heard[1:]],
        "layers": {name: [round(float(value), 6) for value in values] for name, values in by_layer.items()},
    }


def headline(findings: Findings) -> str:
    """The main counts in a sentence or two."""
    parts = []
    for name, among in (
        ("harmful", [prompt.label == "harmful" for prompt in findings.test]),
        ("other", [prompt.label != "harmful" for prompt in findings.test]),
    ):
        answered = [
            f"{findings.count(condition, 'answered', among)[0]} {condition}" for condition in CONDITIONS
        ]
        parts.append(f"Of {sum(among)} {name} requests the model answers {'; '.join(answered)}.")
    return " ".join(parts)


def summary(findings: Findings, found: Sequence[Verdict], lalm: LALM) -> str:
    """The summary as Markdown. Every number in it is computed from the findings."""
    gap, derivation = findings.gap, findings.derivation
    everything = range(len(findings.test))
    share = share_in_space(derivation.direction.values, derivation.space)
    shorter = derivation.vectors.norm() / derivation.direction.norm()
    push = findings.alpha * derivation.vectors.norm() / harmless_spread(findings)
    wrong = 1 - sum(findings.hearing.right) / len(findings.test)
    broken = [
        f"{condition} {share_text(*findings.count(condition, 'broken', [True] * len(findings.test)))}"
        for condition in CONDITIONS
    ]
    from_cache = (
        f", {findings.reused} results read from the cache of an earlier run" if findings.reused else ""
    )
    lines = [
        f"# Walkthrough: {model_name(lalm)}"
        + (f", safety dial at {lalm.safety:g}" if lalm.safety is not None else ""),
        "",
        f"From {len(findings.derive)} requests (derive split) the gap between typed and spoken states, "
        f"the refusal direction, the safe space and the steering vectors; tried on {len(findings.test)} "
        f"other requests (test split). Model {lalm.fingerprint[:16]}, {findings.seconds / 60:.1f} "
        f"minutes{from_cache}.",
        "",
        headline(findings),
        "",
        "## What becomes of the requests",
        "",
        f"Counts, shares and 95% Wilson intervals in percent, at alpha = {findings.alpha:g}, lambda = "
        f"{findings.lam:g}, k = {findings.k}.",
        "",
        markdown_rows(outcome_rows(findings)),
        "",
        f"Broken answers, of all requests: {'; '.join(broken)}.",
        "",
        "![outcomes](outcomes.svg)",
        "",
        "## What was seen, and what was not",
        "",
        markdown_rows(
            [["claim", "verdict", "numbers"], *([v.claim, f"**{v.verdict}**", v.evidence] for v in found)]
        ),
        "",
        RULE,
        "",
        f"Same alpha is not same force: ablation leaves {float(shorter.median()):.0%} of the direction's "
        f"length (median over layers; {float(shorter.min()):.0%} to {float(shorter.max()):.0%}). Whatever "
        "SARSteer spares at this alpha, a shorter unablated vector may spare too; only whole trade-off "
        "curves and vectors of equal length tell.",
        "",
        "## Does it hear?",
        "",
        f'Asked "{hearing.REPEAT.strip()}", the model gets {error_rate(findings, everything):.1%} of the '
        f"words of the {len(findings.test)} test clips wrong. A clip counts as heard right if at most "
        f"{hearing.HEARD_RIGHT:.0%} of its words are wrong; {wrong:.0%} of the clips are misheard. A "
        "misheard request is another request, so only the rows *heard right* say something about safety. "
        "A model may also refuse to repeat a harmful request; that counts as misheard.",
        "",
        markdown_rows(hearing_rows(findings)),
        "",
        "KL: of the answer's first token, from typed to spoken, in nats, mean; beside it that to another "
        "request's clip. *Own answer found*: the spoken request's answer is most like its own typed "
        f"answer among all {len(findings.test)} (TF-IDF cosine, ties shared; identical refusals tie).",
        "",
        "Undefended, split by what was heard:",
        "",
        markdown_rows(heard_rows(findings)),
        "",
        "## The gap between typed and spoken",
        "",
        f"Last-token states of {len(findings.derive)} requests. Cosine of a request's two states, median: "
        f"{_span(gap.cosine.median(0).values)} over the layers; after each modality's mean is taken off "
        f"{_span(gap.centred_cosine.median(0).values)}. The two means lie {_span(gap.distance)} spreads "
        f"apart, those of typed harmful and harmless requests {_span(gap.harm_distance)}. A linear probe "
        f"tells typed from spoken with an accuracy of {_span(gap.probe.mean(1))}. Part of the gap is the "
        "instruction that only spoken prompts carry.",
        "",
        "![gap per layer](gap.svg)",
        "",
        f"![map of layer {gap.layer}](map.svg)",
        "",
        f"Layer {gap.layer} is where typed harmful and harmless requests lie furthest apart.",
        "",
        "## The refusal direction and the safe space",
        "",
        f"The safe space ({findings.k} dimensions of harmless spoken states) holds {_span(share)} of the "
        f"direction's squared length; a random space of its size would hold {chance_share(findings):.3f}. "
        "The cosine to "
        + ", ".join(
            f"difference-in-means {name} is {_span(values)}" for name, values in findings.cosines.items()
        )
        + f". Steering moves a state by {_span(push)} times the spread of harmless states.",
        "",
        "![refusal direction](direction.svg)",
        "",
        "## Settings",
        "",
        *(f"- {name}: {value}" for name, value in settings(findings, lalm).items()),
        "",
    ]
    return "\n".join(lines)


def _mean(values: Sequence[float], chosen: Sequence[int]) -> float:
    return sum(values[i] for i in chosen) / len(chosen)


def _span(values: Tensor) -> str:
    """Smallest to largest."""
    return f"{float(values.min()):.2f} to {float(values.max()):.2f}"

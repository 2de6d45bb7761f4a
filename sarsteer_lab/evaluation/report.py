"""Finished evaluations side by side on one HTML page that can be sent to others: `write_report`.

The page needs no network and no other file. Its numbers are those of the runs' own tables. Of an
answer 20 words at most are shown; requests are quoted, and a few of their clips lie in the page.
"""

import json
import platform
import re
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd
import soundfile
from jinja2 import Environment, PackageLoader, StrictUndefined

from sarsteer_lab.evaluation.base import model_name, refusal_texts
from sarsteer_lab.evaluation.defences import Defence
from sarsteer_lab.evaluation.intervals import wilson
from sarsteer_lab.evaluation.judges import Judge
from sarsteer_lab.evaluation.phrases import opening_words
from sarsteer_lab.evaluation.precondition import KINDS, prompted_refusal, refused_shares
from sarsteer_lab.evaluation.run import read_lines
from sarsteer_lab.evaluation.table import BASELINE, evaluate, markdown, readable
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import Request
from sarsteer_lab.speech import SAMPLE_RATE, ClipError, read_clip
from sarsteer_lab.store import atomic_write

EXAMPLES = 2
"""Requests of each set that are shown with every defence's answer, the first also as a clip."""

PROMPTED = 10
"""Requests of each kind that are asked with the refusal text in the prompt."""

PACKAGES = ("sarsteer-lab", "torch", "transformers", "numpy")


def evaluate_into(
    folder: Path,
    lalm: LALM,
    defences: Sequence[Defence],
    sets: Mapping[str, Sequence[Request]],
    judges: Sequence[Judge],
    *,
    refusals: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    **options: Any,
) -> str:
    """`table.evaluate` with its table as `table.csv`, `table.md` and a text, and what else a page
    needs.

    That goes to `about.json`: the model, versions, `settings` as they were given, each request's
    topic and clip, and how often `refusals` (texts or names), put in the prompt, make the model
    refuse (`PROMPTED` requests of each kind). Raises as `table.evaluate` and
    `precondition.prompted_refusal` do.
    """
    table = evaluate(lalm, defences, sets, judges, folder, **options)
    table.to_csv(folder / "table.csv", index=False)
    # One about its clip has no typed form.
    asked = [request for requests in sets.values() for request in requests if not request.text]
    some = [
        request for kind in KINDS for request in [r for r in asked if r.label == kind][:PROMPTED]
    ]
    texts = refusal_texts(refusals)
    shares = (
        refused_shares(prompted_refusal(lalm, some, texts)) if some and texts else pd.DataFrame()
    )
    about = {
        "model": {"model": model_name(lalm), "dtype": str(lalm.dtype), "device": lalm.device.type},
        "versions": {
            "Python": platform.python_version(),
            **{name: version(name) for name in PACKAGES},
        },
        "settings": dict(settings or {}),
        "requests": {
            name: {r.id: {"topic": r.topic, "clip": r.clip and r.clip.resolve()} for r in requests}
            for name, requests in sets.items()
        },
        "prompted": shares.to_dict("records"),
    }
    text = markdown(table)
    for name, content in (
        ("about.json", json.dumps(about, indent=1, default=str)),
        ("table.md", text),
    ):
        with atomic_write(folder / name) as scratch:
            scratch.write_text(content + "\n", encoding="utf-8")
    return text


def write_report(folders: Sequence[Path], path: Path) -> None:
    """Write one page about the runs in these folders, as `sarsteer-lab evaluate` leaves them.

    Raises FileNotFoundError for a folder without a finished run, ValueError if one of its files is
    damaged, and OSError if the page cannot be written.
    """
    runs = [_run(folder, f"run {n}") for n, folder in enumerate(folders, start=1)]
    together = pd.concat(
        [run["table"].assign(run=f"{run['name']}, {run['model']}") for run in runs]
    )
    together = together[together["judge"] == together["judge"].iloc[0]]
    together["cell"] = readable(together)["rate [95%]"]
    keys = ["run", "set", "measure"]
    compared = together.pivot(index="defence", columns=keys, values="cell").fillna("")
    compared = compared.reindex(together["defence"].unique())
    columns = together[keys].drop_duplicates()
    compared = compared[list(columns.itertuples(index=False, name=None))]
    loader = PackageLoader("sarsteer_lab", "evaluation")
    page = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    text = page.get_template("report.html.jinja").render(runs=runs, compared=compared)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as scratch:
        scratch.write_text(text, encoding="utf-8")


def _run(folder: Path, name: str) -> dict[str, Any]:
    """What the page says of one run."""
    needed = [
        folder / file for file in ("about.json", "table.csv", "responses.jsonl", "outcomes.jsonl")
    ]
    if absent := [path.name for path in needed if not path.is_file()]:
        raise FileNotFoundError(
            f"{folder} holds no finished run ({', '.join(absent)} missing): give `sarsteer-lab evaluate` the "
            f"same options and --folder {folder} again; what is done is kept"
        )
    try:
        about = json.loads(needed[0].read_text(encoding="utf-8"))
        table = pd.read_csv(
            needed[1], keep_default_na=False, na_values=[""], float_precision="round_trip"
        )
        judged = read_lines(needed[2]).merge(
            read_lines(needed[3]), on=["defence", "set", "label", "id"]
        )
        judged = judged[judged["judge"] == table["judge"].iloc[0]]
        facts = [
            about["requests"][of][key] for of, key in zip(judged["set"], judged["id"], strict=True)
        ]
        judged = judged.assign(
            topic=[fact["topic"] for fact in facts], clip=[fact["clip"] for fact in facts]
        )
        settings = {**about["settings"], **about["model"], **about["versions"]}
        return {
            "name": name,
            "folder": folder.resolve().name,
            "model": about["model"]["model"],
            "table": table,
            "shown": readable(table),
            "planes": list(_planes(table)),
            "topics": _topics(judged),
            "prompted": pd.DataFrame(about["prompted"]),
            "examples": list(_examples(judged)),
            "settings": {
                key: _public(value) for key, value in settings.items() if value is not None
            },
        }
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{folder}: a file of its run is damaged or of another version: {error}"
        ) from error


def _planes(table: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """For each benign set the defences as points: benign requests answered, harmful ones refused, 0
    to 1."""
    own = table[table["judge"] == table["judge"].iloc[0]]
    harmful = own[own["label"] == "harmful"].groupby("defence")[["refused", "n"]].sum()
    if harmful.empty:
        return
    for name, part in own[own["label"] != "harmful"].groupby("set", sort=False):
        points: list[dict[str, Any]] = []
        bound = None
        for row in part.to_dict("records"):
            refused, n = (int(count) for count in harmful.loc[row["defence"]])
            point = {"number": len(points) + 1, "defence": row["defence"]}
            point |= {"counts": f"{refused}/{n}, {row['answered']}/{row['n']}"}
            point |= {"x": row["answered"] / row["n"], "xs": wilson(row["answered"], row["n"])}
            points.append(point | {"y": refused / n, "ys": wilson(refused, n)})
            if row["defence"] == BASELINE and pd.notna(row.get("best_rate")):
                bound = row["best_rate"]
        yield {"set": name, "points": points, "bound": bound}


def _topics(judged: pd.DataFrame) -> pd.DataFrame:
    """Requests refused of each set and topic under each defence, as counts."""
    found = judged.assign(refused=judged["outcome"] == "refused")
    counts = found.groupby(["set", "topic", "defence"], sort=False)["refused"].agg(["sum", "count"])
    text = counts["sum"].astype(str) + "/" + counts["count"].astype(str)
    return text.unstack("defence").reindex(columns=judged["defence"].unique()).fillna("")


def _examples(judged: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Of each set the requests on which the defences differ most, with every answer's first
    words."""
    for name, part in judged.groupby("set", sort=False):
        differing = (
            part.groupby("id", sort=False)["outcome"]
            .nunique()
            .sort_values(ascending=False, kind="stable")
        )
        for number, key in enumerate(differing.index[:EXAMPLES]):
            own = part[part["id"] == key]
            clip = own["clip"].iloc[0] if number == 0 else None
            answers = [(r.defence, r.outcome, opening_words(r.response)) for r in own.itertuples()]
            sound = clip and _sound(Path(clip))
            yield {
                "set": name,
                "request": own["request"].iloc[0],
                "clip": sound,
                "answers": answers,
            }


def _public(value: Any) -> str:
    """A setting in words; of a file or folder only its name, whosever machine it lay on."""
    if isinstance(value, list):
        return ", ".join(map(_public, value))
    return re.sub(r"(^|:)(~|\.\.?)?/.*/", r"\1", str(value))


def _sound(clip: Path) -> str | None:
    """A clip as an MP3, which every browser plays, in base64; None where it is no longer there."""
    file = BytesIO()
    try:
        soundfile.write(file, read_clip(clip), SAMPLE_RATE, format="MP3")
    except ClipError:
        return None
    return b64encode(file.getvalue()).decode()

"""Finished evaluations side by side on one HTML page to be sent to others: `write_report`.

The page needs no network and no other file. Its numbers are those of the runs' own tables. Of an
answer 20 words at most are shown; requests are quoted, and a few of their clips lie in the page.
"""

import json
import platform
import re
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
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
from sarsteer_lab.evaluation.run_check import check_run, check_seal, sealed
from sarsteer_lab.evaluation.table import (
    BASELINE,
    KEYS,
    evaluation_table,
    markdown,
    out_of,
    readable,
)
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import Form, Request
from sarsteer_lab.speech import SAMPLE_RATE, ClipError, read_clip
from sarsteer_lab.store import atomic_write

EXAMPLES = 2
"""Requests of each set that are shown with every defence's answer, the first also as a clip."""

PROMPTED = 10
"""Requests of each kind that are asked with the refusal text in the prompt."""

FILES = ["about.json", "table.csv", "responses.jsonl", "outcomes.jsonl"]
"""What a finished run has left, and the page needs."""

PACKAGES = ("sarsteer-lab", "torch", "transformers", "numpy")


def evaluate_into(
    folder: Path,
    lalm: LALM,
    defences: Sequence[Defence],
    sets: Mapping[str, Sequence[Request]],
    judges: Sequence[Judge],
    *,
    form: Form = "spoken",
    refusals: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    **options: Any,
) -> str:
    """`evaluation_table` with its table as `table.csv`, `table.md` and a text; and `about.json`.

    The latter is what else a page needs: the model, versions, `settings` as they were given, each
    request's topic and the clip that was heard, and how often the model refuses with `refusals`
    (texts or names) in the prompt (`PROMPTED` requests of each kind). `options` are those of
    `evaluation_table`. Raises as it and `precondition.prompted_refusal` do.
    """
    table = evaluation_table(lalm, defences, sets, judges, folder, form=form, **options)
    _write(folder / "table.csv", table.to_csv(index=False).rstrip("\n"))
    facts: dict[str, dict[str, Any]] = {name: {} for name in sets}
    for name, requests in sets.items():
        for request in requests:
            heard = request.clip if form == "spoken" else None
            clip = heard and heard.resolve()
            facts[name][request.id] = {"topic": request.topic, "clip": clip}
    versions = {name: version(name) for name in PACKAGES}
    versions["Python"] = platform.python_version()
    about: dict[str, Any] = {"requests": facts, "settings": settings or {}, "versions": versions}
    about["model"] = {"model": model_name(lalm), "dtype": lalm.dtype, "device": lalm.device.type}
    about["prompted"] = _prompted(lalm, sets, refusal_texts(refusals))
    _write(folder / "about.json", sealed(folder, about))
    text = markdown(table)
    _write(folder / "table.md", text)
    return text


def _prompted(
    lalm: LALM, sets: Mapping[str, Sequence[Request]], texts: Mapping[str, str]
) -> list[dict[str, Any]]:
    """How often the texts make the model refuse a few of the requests of each kind."""
    # A request that is about its clip has no typed form.
    requests = [request for request in chain(*sets.values()) if not request.text]
    asked: list[Request] = []
    for kind in KINDS:
        alike = [request for request in requests if request.label == kind]
        asked += alike[:PROMPTED]
    if not asked or not texts:
        return []
    shares = refused_shares(prompted_refusal(lalm, asked, texts))
    return shares.to_dict("records")


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as scratch:
        scratch.write_text(text + "\n", encoding="utf-8")


def write_report(folders: Sequence[Path], path: Path) -> None:
    """Write one page about the runs in these folders, as `sarsteer-lab evaluate` leaves them.

    Raises FileNotFoundError for a folder without a finished run, ValueError if one of its files is
    damaged or they do not belong together (`run_check.check_run`) or a run is given twice, and
    OSError if the page cannot be written.
    """
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ValueError("a run is named twice: it would be compared with itself")
    runs = [_run(folder) for folder in folders]
    for number, run in enumerate(runs, start=1):
        run["name"] = f"run {number}"
    loader = PackageLoader("sarsteer_lab", "evaluation")
    pages = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    pages.filters["public"] = _public
    template = pages.get_template("report.html.jinja")
    _write(path, template.render(runs=runs, compared=_side_by_side(runs)))


def _side_by_side(runs: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The rates of all runs by the first one's judge: a row per defence."""
    tables = []
    for run in runs:
        title = f"{run['name']}, {run['model']}"
        rates = run["shown"]["rate [95%]"]
        tables.append(run["table"].assign(run=title, rate=rates))
    table = _by_first_judge(pd.concat(tables, ignore_index=True))
    keys = ["defence", "run", "set", "measure"]
    several = table.duplicated(keys, keep=False)  # harmless and everyday requests of one set
    told = table["measure"] + ", " + table["label"]
    cells = table.assign(measure=told.where(several, table["measure"])).set_index(keys)["rate"]
    return cells.unstack([1, 2, 3], fill_value="", sort=False)


def _by_first_judge(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["judge"] == table["judge"].iloc[0]]


def _run(folder: Path) -> dict[str, Any]:
    """What the page says of one run."""
    absent = [file for file in FILES if not (folder / file).is_file()]
    if absent:
        missing = f"holds no finished run ({', '.join(absent)} missing)"
        advice = f"give `sarsteer-lab evaluate` the same options and --folder {folder} again"
        raise FileNotFoundError(f"{folder} {missing}: {advice}; what is done is kept")
    try:
        return _findings(folder)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        reason = "a file of its run is damaged or of another version"
        raise ValueError(f"{folder}: {reason}: {error}") from error


def _findings(folder: Path) -> dict[str, Any]:
    about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
    names = dict.fromkeys(KEYS, str)  # a set may be called "2026"
    table = pd.read_csv(folder / "table.csv", dtype=names, keep_default_na=False, na_values=[""])
    responses = read_lines(folder / "responses.jsonl")
    all_outcomes = read_lines(folder / "outcomes.jsonl")
    check_run(folder, table, responses, all_outcomes)
    check_seal(folder, about)
    outcomes = _by_first_judge(all_outcomes)
    answers = responses.merge(outcomes, on=["defence", "set", "label", "id"])
    requests = about["requests"]
    facts = [requests[row.set][row.id] for row in answers.itertuples()]
    answers["topic"] = [fact["topic"] for fact in facts]
    settings = {**about["settings"], **about["model"], **about["versions"]}
    run = {"folder": folder.resolve().name, "model": settings["model"], "settings": settings}
    run |= {"table": table, "shown": readable(table)}
    run["prompted"] = about["prompted"]
    run["planes"] = list(_planes(_by_first_judge(table)))
    run["topics"] = _topics(answers)
    run["examples"] = list(_examples(answers, requests))
    return run


def _planes(table: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """For each benign set the defences as points, in shares: others answered, harmful refused."""
    is_harmful = table["label"] == "harmful"
    harmful = table[is_harmful].groupby("defence")[["refused", "n"]].sum()
    harmful = harmful.add_prefix("harmful_")
    if harmful.empty:
        return
    for name, benign in table[~is_harmful].groupby("set", sort=False):
        points = benign.join(harmful, on="defence")
        points["number"] = range(1, len(points) + 1)
        _put_share(points, "x", "answered", "n")
        _put_share(points, "y", "harmful_refused", "harmful_n")
        bounds = points.set_index("defence").get("best_rate", pd.Series())
        bound = bounds.dropna().get(BASELINE)
        yield {"set": name, "points": points.to_dict("records"), "bound": bound}


def _put_share(points: pd.DataFrame, axis: str, hits: str, total: str) -> None:
    """Columns for a share of counts, and for its interval."""
    points[axis] = points[hits] / points[total]
    points[f"{axis}s"] = list(map(wilson, points[hits], points[total]))


def _topics(answers: pd.DataFrame) -> pd.DataFrame:
    """Requests refused of each set and topic under each defence, as counts."""
    refused = answers.assign(refused=answers["outcome"] == "refused")
    cells = refused.groupby(["set", "topic", "defence"], sort=False)["refused"]
    counts = out_of(cells.sum(), cells.count())
    return counts.unstack("defence", fill_value="")[answers["defence"].unique()]


def _examples(
    answers: pd.DataFrame, requests: Mapping[str, Mapping[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Of each set the requests on which defences differ most, with every answer's first words."""
    for name, rows in answers.groupby("set", sort=False):
        n_outcomes = rows.groupby("id", sort=False)["outcome"].nunique()
        differing = n_outcomes.sort_values(ascending=False, kind="stable").index[:EXAMPLES]
        for key in differing:
            alike = rows[rows["id"] == key]
            words = alike["response"].map(opening_words)
            answered = list(zip(alike["defence"], alike["outcome"], words, strict=True))
            clip = requests[name][key]["clip"]
            example = {"set": name, "request": alike["request"].iloc[0], "answers": answered}
            example["clip"] = _sound(clip) if clip and key == differing[0] else None
            yield example


def _public(value: Any) -> str:
    """A setting in words; of a file or folder only its name, whosever machine it lay on."""
    if isinstance(value, list):
        return ", ".join(map(_public, value))
    return re.sub(r"(^|:)(~|\.\.?)?/.*/", r"\1", str(value))


def _sound(clip: str) -> str | None:
    """A clip as an MP3, which every browser plays, in base64; None where it is no longer there."""
    with TemporaryDirectory() as folder:  # a file: in memory libsndfile would swallow Ctrl-C
        file = Path(folder, "clip.mp3")
        try:
            soundfile.write(file, read_clip(clip), SAMPLE_RATE)
        except ClipError:
            return None
        return b64encode(file.read_bytes()).decode()

"""What defences reach at the dials' settings: gathered, chosen from, and told in the card."""

import json

from sarsteer_lab.course.figures.understanding import understanding_figure
from sarsteer_lab.prompts import load_prompts
from training.understanding.reached import BEGIN, END, GATHERED, best, gather, table, undefended
from training.understanding.steered import REACHED
from training.understanding.tables import CARD, MEASURED


def reached_by(name, refused, answered):
    return {"defence": name, "refused": [refused, 10], "answered": [answered, 20], "bound": 0.5}


ROWS = [
    reached_by("none", 3, 19),
    reached_by("SARSteer, chosen: inspect lam=0, alpha 0.05", 8, 12),
    reached_by("self-reminder before", 9, 4),
    reached_by("self-reminder after", 8, 8),
    reached_by("CAST, inspect, alpha 0.05", 5, 16),
    reached_by("CAST, inspect, alpha 0.1", 7, 11),
]


def test_what_lies_in_folders_is_gathered_by_rising_knowledge_and_what_is_known_stays(tmp_path):
    for setting in ("1-1-0.3", "1-0-0", "0.7-1-1"):
        (tmp_path / setting).mkdir()
        (tmp_path / setting / REACHED).write_text(json.dumps(ROWS), encoding="utf-8")
    (tmp_path / "1-1-1").mkdir()  # asked, not reported yet
    gathered = gather(tmp_path, {"1 0.5 0": ROWS[:1], "1 0 0": []})
    assert list(gathered) == ["1 0 0", "1 0.5 0", "1 1 0.3", "0.7 1 1"]
    assert gathered["1 0 0"] == ROWS and gathered["1 0.5 0"] == ROWS[:1]
    again = gather(tmp_path, gathered)
    assert again == gathered


def test_of_prompts_and_of_cast_the_better_is_drawn_and_only_at_full_safety():
    points = best({"1 0 0": ROWS, "0.7 1 1": ROWS})
    assert set(points["setting"]) == {"1 0 0"}
    by_name = points.set_index("defence")[["setting", "refused", "answered"]]
    assert by_name.loc["SARSteer"].tolist() == ["1 0 0", 0.8, 0.6]
    assert by_name.loc["self-reminder"].tolist() == ["1 0 0", 0.8, 0.4]  # 1.2 against 1.1
    assert by_name.loc["CAST"].tolist() == ["1 0 0", 0.5, 0.8]  # 1.3 against 1.25


def test_the_card_tells_what_was_reached_and_the_figure_is_drawn_of_it():
    reached = json.loads(GATHERED.read_text(encoding="utf-8"))
    card = CARD.read_text(encoding="utf-8")
    assert f"{BEGIN}\n\n{table(reached)}\n\n{END}" in card
    measured = json.loads(MEASURED.read_text(encoding="utf-8"))
    rows = undefended(measured, load_prompts("validation") + load_prompts("test"))
    assert list(rows["setting"].unique()) == ["0", "0.25", "0.5", "0.75", "1", "1, safety 1"]
    [_, _, plane] = understanding_figure(rows, best(reached)).axes
    assert {text.get_text() for text in plane.get_legend().get_texts()} == {
        "SARSteer",
        "self-reminder",
        "CAST",
    }

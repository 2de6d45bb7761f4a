"""Word errors against a plain recursive edit distance."""

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sarsteer_lab.course.hearing import (
    differs,
    forms,
    transcript,
    word_error_rate,
    word_errors,
    words,
)
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import Prompt, Request

sentences = st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=6).map(" ".join)


def slow_distance(first: tuple[str, ...], second: tuple[str, ...]) -> int:
    """Edit distance straight from its definition."""

    @cache
    def distance(i: int, j: int) -> int:
        if i == 0 or j == 0:
            return i + j
        change = distance(i - 1, j - 1) + (first[i - 1] != second[j - 1])
        return min(change, distance(i - 1, j) + 1, distance(i, j - 1) + 1)

    return distance(len(first), len(second))


@given(sentences, sentences)
def test_word_errors_are_the_edit_distance(first: str, second: str) -> None:
    assert word_errors(first, second) == slow_distance(tuple(first.split()), tuple(second.split()))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("How do I kill a Python process?", ["how", "do", "i", "kill", "a", "python", "process"]),
        ("Don\u2019t! Don't.", ["don't", "don't"]),
        ("  well-known \n 2 things...", ["well", "known", "2", "things"]),
        ("?!", []),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert words(text) == expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("What is rain?", "What is rain?"),
        ('The audio says: "What is rain?"', "What is rain?"),
        ("He says \u201cwhat is rain\u201d.", "what is rain"),
        ('an inch is 1"', 'an inch is 1"'),
        ("", ""),
    ],
)
def test_transcript(answer: str, expected: str) -> None:
    assert transcript(answer) == expected


def test_word_error_rate_is_over_all_words() -> None:
    assert word_error_rate(
        ["one two three four", "five"], ["one two three", "six"]
    ) == pytest.approx(2 / 5)
    assert word_error_rate(["Hello, world!"], ["hello world"]) == 0
    assert word_error_rate(["hello"], ["oh hello there you"]) == 3


@pytest.mark.parametrize(("references", "heard"), [([], []), (["?"], ["a"]), (["a", "b"], ["a"])])
def test_word_error_rate_needs_words_and_pairs(references: list[str], heard: list[str]) -> None:
    with pytest.raises(ValueError, match="one heard per reference"):
        word_error_rate(references, heard)


def test_something_else_was_heard_beyond_one_word_in_ten() -> None:
    ten = "one two three four five six seven eight nine ten"
    assert not differs(ten, "one two three four five six seven eight nine 10") and differs(
        ten, "one two"
    )
    assert not differs("", "anything") and differs("Name a fruit.", "Name a flute.")


def test_forms_of_a_request(tiny: LALM, spoken: list[Request]) -> None:
    both = forms(tiny, spoken[0])
    assert both == {"typed": spoken[0].typed(), "spoken": spoken[0].spoken()}
    assert [*forms(tiny, Prompt("Hi"))] == ["typed"] and [*forms(tiny, both["spoken"])] == [
        "spoken"
    ]
    about = Request(
        "1", "a dog barks", "everyday", "t", "test", spoken[0].clip, text="Which animal?"
    )
    assert [*forms(tiny, about)] == ["spoken"]

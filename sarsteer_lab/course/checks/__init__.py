"""Checks of the exercises: each tells what is wrong with an answer, and never what would be right.

An exercise leaves its blanks as `...` and ends with one call in a cell of its own, for instance

    check_refusal_direction(my_direction)

whose outcome is shown: passed, or not yet and why. The solution notebook fills the blank and leaves
that cell as it is. There is a module for each part of the course.

To add one: write `check_<what>` with the decorator `tools.check`, below its chapter's heading. It
takes the student's answer (a value, or a function that is then tried on made-up tensors, so that a
check needs no model and takes no time), raises through `need_close` and its like whatever is wrong
(usual mistakes are named beside what they would give), and returns one sentence that says what the
right answer shows. What the right answer depends on (the model's own numbers) is passed in by the
notebook, never written here. `tests/course` holds a right answer and at least two wrong ones for
every check, and `tests/course/test_run_notebooks.py` runs exercises and solutions.
"""

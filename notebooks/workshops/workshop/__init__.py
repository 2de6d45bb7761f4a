"""Workshops: the reader writes a SARSteer of their own, step by step.

`begin(n)` opens workshop n, `clean_start()` starts over. Each step ends with a check; a function
that passes is kept in `mine/my_sarsteer.py`, and the next workshop imports it from there. The
checks are in `ears` (workshop 0), `states` (1), `directions` (2 and 3), `steering` (4),
`evaluating` (5 and 6), `instruments` (7) and `broken` (8, with `symptoms`), and how functions are
kept in `mine`.
"""

from workshop.mine import begin, clean_start, progress

__all__ = ["begin", "clean_start", "progress"]

"""Students' exercise notebooks run anew, and what the shipped checks say of them, as a table.

Not imported by `sarsteer_lab.course`: notebooks do not need it. `hand_ins` finds what each student
has handed in, `tasks` reads the shipped exercises, `inside` works in the student's kernel,
`running` runs one notebook there, and `grade` does it for a class.
"""

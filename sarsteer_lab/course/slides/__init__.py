"""The course as slides for a lecture: LECTURER.md's order, the chapters' figures and findings.

`lecture` reads what there is to show, `deck` puts it on slides, `make` does both. Needs the extra
`teach`.
"""

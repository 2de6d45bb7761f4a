"""What a file is that is not what it was taken for, told by how it begins.

Downloads go wrong in few ways: Git LFS leaves a pointer in a file's place, a server sends a page
that says "not found", and an archive or a workbook keeps what has to be taken out of it first.
"""

import re

KINDS = {
    rb"version https://git-lfs": "is a Git LFS pointer, not the file itself: run `git lfs pull`",
    rb"\s*<(?i:!doctype html|html)": "is an HTML page, as servers send for an error: get it again",
    rb"\s*(?:<\?xml|<Error>)": "is XML, as servers send for an error: get it again",
    rb'\s*{\s*"': "is JSON, as servers send for an error: get it again",
    rb"PK\x03\x04": "is a ZIP archive or an Excel workbook: unpack it, or save it as CSV",
    rb"\xd0\xcf\x11\xe0": "is an Excel workbook of the old kind: save it as CSV",
    rb"\x1f\x8b|BZh[1-9]1AY|\xfd7zXZ|\x28\xb5\x2f\xfd": "is compressed: unpack it",
    rb"PAR1\x15": "is a Parquet file: name it .parquet",
    rb"%PDF-": "is a PDF: save what is in it in another form",
    rb"RIFF.{4}WAVE|fLaC\0|OggS\0|ID3[\2-\4]": "is an audio file",
}
"""How a file begins, and what it is then, with what to do."""

_TEXT = re.compile(rb"[\t\r\n -~]{1,4000}")


def strange_kind(content: bytes, usual: str) -> str | None:
    """What a file is that holds this `content`, with what to do; it reads on after "FILE: ".

    None where its beginning says nothing, or says that it is what it should be: `usual` is a word
    of that kind, "audio" or "JSON".
    """
    for beginning, kind in KINDS.items():
        if re.match(beginning, content, re.DOTALL):
            return None if usual in kind else kind
    if usual == "audio" and not content:
        return "is empty (0 bytes): record or copy it again"
    if usual == "audio" and _TEXT.fullmatch(content[:4000]):
        return "is text: get it again"
    return None

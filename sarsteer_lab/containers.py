"""Whether the bytes of a sound file are one whole recording: what decoders do not ask.

libsndfile reads what is left of a file that was cut off, and the first of several recordings in one
file, and says so in its log at most. Sources: that log, RFC 3533 (Ogg), RFC 9639 (FLAC), and the
Xing header that MP3 encoders write.
"""

import re
from io import BytesIO

import soundfile

STREAM = 0x7FFFF000
"""Sizes from here on stand for an unknown one: this is sox's, 0xFFFFFFFF ffmpeg's."""

ENDLESS = 1 << 48
"""More frames than that are libsndfile's way to say that it does not know how many there are."""

SEVERAL = "holds several recordings one after the other; split it, or join them into one recording"

# libsndfile's log: how many bytes the header promises for the samples (Wave64, RF64: for the file),
# and how many there are.
_SIZES = re.compile(r"(?:data|SSND|Data Size|riff|Riff size) *: (\d+) \(should be (\d+)\)")

# What a FLAC file begins with, and what stands in an MP3's first frame.
_BEGINNINGS = (b'fLaC\0\0\0"', b'fLaC\x80\0\0"', bytes(9) + b"Xing\0\0\0", bytes(9) + b"Info\0\0\0")

# The header of a page of Ogg: its flags (2: a recording begins, 4: it ends), and its segments.
_PAGE = re.compile(rb"OggS\0(.).{20}(.)", re.DOTALL)

# A WAV whose samples take 0 bytes: the size of the file stands behind "RIFF".
_UNFINISHED = re.compile(rb"RIFF(.{4})WAVE.{0,4000}?data\0{4}", re.DOTALL)


def flaw(content: bytes) -> str | None:
    """Why a file's `content` is not one whole recording, or None; it reads on after "FILE: "."""
    if content.startswith(b"OggS"):
        return _flaw_of_ogg(content)
    if sum(map(content.count, _BEGINNINGS)) > 1:
        return SEVERAL
    try:
        with soundfile.SoundFile(BytesIO(content)) as clip:
            frames, log = clip.frames, clip.extra_info
    except soundfile.SoundFileError:  # whoever reads it next says so
        return None
    if frames > ENDLESS:
        return "does not say how long it is (a stream); convert it to WAV or encode it to a file"
    for promised, there in _SIZES.findall(log):
        if int(there) < int(promised) < STREAM:
            return f"is cut off ({there} of {promised} bytes are there); copy or export it again"
    return None


def finished(content: bytes) -> bytes:
    """`content`, where a WAV recorder never wrote the sizes, as libsndfile reads it to its end."""
    header = _UNFINISHED.match(content)
    if header is None:
        return content
    size = int.from_bytes(header[1], "little") + 8
    if header.end() < size < STREAM:  # a finished file without samples: other things come behind
        return content
    return content[:4] + (8).to_bytes(4, "little") + content[8:]


def _flaw_of_ogg(content: bytes) -> str | None:
    pages = list(_PAGE.finditer(content))
    flags = b"".join(page[1] for page in pages)
    if re.search(rb"[\0\1\4\5][\2\3\6\7]", flags):
        return SEVERAL
    if pages and flags[-1] & 4:
        start = pages[-1].end()
        segments = pages[-1][2][0]
        sizes = content[start : start + segments]
        if start + segments + sum(sizes) <= len(content):
            return None
    return "is cut off (its last page is not there); copy or export it again"

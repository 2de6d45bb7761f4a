"""Whether the bytes of a sound file are one whole recording: what decoders do not ask.

libsndfile reads what is left of a file that was cut off, and the first of several recordings in one
file, and says so in its log at most. Sources: that log, RFC 3533 (Ogg), RFC 9639 (FLAC), the Xing
header that MP3 encoders write, and NIST SPHERE's header in plain words.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import soundfile

STREAM = 0x7FFFF000
"""Sizes from here on stand for an unknown one: this is sox's, 0xFFFFFFFF ffmpeg's."""

ENDLESS = 1 << 48
"""More frames than that are libsndfile's way to say that it does not know how many there are."""

AGAIN = "copy or export it again"

SEVERAL = "holds several recordings one after the other; split it, or join them into one recording"

# libsndfile's log: how many bytes the header promises for the samples (Wave64, RF64: for the file),
# and how many there are.
_SIZES = re.compile(r"(?:data|SSND|BODY|Data Size|riff|Riff size) *: (\d+) \(should be (\d+)\)")

# In a WAV's header: how many channels, bytes for a sample of all of them, and bits for one.
_WAV = re.compile(
    r"Format +: 0x[13] =>.*\n +Channels +: (\d+)\n.*\n"
    r" +Block Align +: (\d+)\n +Bit Width +: (\d+)"
)

# How many frames the header promises (AVR, MPC2000, MATLAB); and what it says in words (VOC).
_FRAMES = re.compile(r" (?:Frames|Cols) *: (\d+)")
_TRUNCATED = re.compile("seems to be (?:a )?truncated", re.IGNORECASE)

# NIST SPHERE (TIMIT, LDC): libsndfile does not look at the number of samples in the header.
_SPHERE = re.compile(rb"NIST_1A\n.{0,1000}?\nsample_count -i (\d+)", re.DOTALL)

# PVF, PAF and IRCAM: no size in the header.
_ENDLESS_KINDS = re.compile(
    rb"(?P<PVF>PVF1\n)|(?P<PAF> paf|fap )|(?P<IRCAM>\x64\xa3[\1-\4]\0|\0[\1-\4]\xa3\x64)"
)

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
        with in_a_file(content) as copy, soundfile.SoundFile(copy) as clip:
            frames, log = clip.frames, clip.extra_info
    except soundfile.SoundFileError:  # whoever reads it next says so
        return None
    if kind := _ENDLESS_KINDS.match(content):
        reason = "whose header does not say how long it is, so that a cut would not be seen"
        return f"is a file of the kind {kind.lastgroup}, {reason}; convert it to WAV"
    return _cut_off(content, frames, log)


def _cut_off(content: bytes, frames: int, log: str) -> str | None:
    """Why a file of so many `frames`, of which libsndfile says `log`, is not whole, or None."""
    if frames > ENDLESS:
        return "does not say how long it is (a stream); convert it to WAV or encode it to a file"
    if reason := _contradiction(log):
        return reason
    for promised, there in _SIZES.findall(log):
        if int(there) < int(promised) < STREAM:
            return f"is cut off ({there} of {promised} bytes are there); copy or export it again"
    told = _FRAMES.findall(log)
    if sphere := _SPHERE.match(content):
        told.append(sphere[1])
    n_told = int(told[-1]) if told else 0
    if frames < n_told:
        return f"is cut off ({frames} of {n_told} samples are there); {AGAIN}"
    if _TRUNCATED.search(log) or _ends_within_a_chunk(content):
        return f"is cut off; {AGAIN}"
    return None


def _contradiction(log: str) -> str | None:
    """What in a WAV's header cannot be: libsndfile would read such samples too fast or too slow."""
    header = _WAV.search(log)
    if header is None:
        return None
    channels, block, bits = map(int, header.groups())
    width = (bits + 7) // 8
    # 24 bits may stand in four bytes.
    if block in (channels * width, channels * 4 * (width == 3)):
        return None
    says = f"{channels} channels of {bits} bits in {block} bytes"
    return f"has a header that contradicts itself ({says}); {AGAIN}"


def _ends_within_a_chunk(content: bytes) -> bool:
    """Whether Apple's CAF or Psion's WVE is shorter than it says; False of others."""
    if content.startswith(b"ALawSoundFile**"):
        return 32 + int.from_bytes(content[18:22]) > len(content)
    place = 8
    while content.startswith(b"caff") and place + 12 <= len(content):
        size = int.from_bytes(content[place + 4 : place + 12], signed=True)
        if size < 0:  # up to the end
            return False
        place += 12 + size
    return place > len(content) > 8


@contextmanager
def in_a_file(content: bytes) -> Iterator[Path]:
    """A file of this content, for a while.

    What is in memory libsndfile reads by calling Python, where it swallows Ctrl-C, and takes what
    it got by then for the whole.
    """
    with TemporaryDirectory() as folder:
        copy = Path(folder, "clip")
        copy.write_bytes(content)
        yield copy


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

"""Whether the bytes of a sound file are one whole recording: what decoders do not ask.

libsndfile reads what is left of a file that was cut off, and the first of several recordings in one
file, without a word. Sources: the RIFF and RF64 (EBU Tech 3306) layouts, RFC 3533 (Ogg), RFC 9639
(FLAC), and the Xing header that MP3 encoders write.
"""

import re
import struct

STREAM = 0x7FFFF000
"""Sizes from here on are what programs write that cannot know the size: this sox, 0xFFFFFFFF
ffmpeg."""

SEVERAL = "holds several recordings one after the other; split it, or join them into one recording"


def flaw(content: bytes) -> str | None:
    """What keeps a file's `content` from being one whole recording, or None; read on after "FILE:
    "."""
    if content[:4] in (b"RIFF", b"RIFX", b"RF64", b"FORM"):
        return _cut_off(sum(_samples(content)), len(content))
    if content[:4] == b"riff" and len(content) >= 24:  # Wave64: its size is that of the file
        return _cut_off(struct.unpack_from("<Q", content, 16)[0], len(content))
    if content[:4] == b".snd" and len(content) >= 12:
        return _cut_off(sum(struct.unpack_from(">II", content, 4)), len(content))
    if content[:4] == b"OggS":
        return _flaw_of_ogg(content)
    start = _after_id3(content, 0)
    if content[start : start + 4] == b"fLaC":
        if len(content) > start + 26 and not int.from_bytes(content[start + 21 : start + 26]) % (
            1 << 36
        ):
            return "does not say how long it is (a FLAC stream); convert it to WAV or encode it to a file"
        return SEVERAL if len(re.findall(b'fLaC[\0\x80]\0\0"', content)) > 1 else None
    return _flaw_of_mp3(content, start)


def finished(content: bytes) -> bytes:
    """`content` with the size that a WAV recorder leaves at 0 until it closes the file, if it never
    did."""
    start, size = _samples(content) if content[:4] == b"RIFF" else (0, 0)
    # Nor is the RIFF size written then: in a finished file without samples it reaches to where they
    # would be.
    if not start or size or start < int.from_bytes(content[4:8], "little") + 8 < STREAM:
        return content
    return (
        content[: start - 4]
        + min(len(content) - start, STREAM).to_bytes(4, "little")
        + content[start:]
    )


def _samples(content: bytes) -> tuple[int, int]:
    """Where the chunk of samples starts and how many bytes it is said to take; (0, 0) if there is
    none."""
    order, at, long = ">" if content[:4] in (b"RIFX", b"FORM") else "<", 12, 0
    while at + 8 <= len(content):
        name, size = struct.unpack_from(f"{order}4sI", content, at)
        if name in (b"data", b"SSND"):
            return at + 8, long or size
        if name == b"ds64" and at + 24 <= len(content):
            (long,) = struct.unpack_from("<Q", content, at + 16)
        at += 8 + size + size % 2
    return 0, 0


def _cut_off(promised: int, found: int) -> str | None:
    if promised <= found or promised >= STREAM:
        return None
    return f"is cut off ({found} of {promised} bytes are there); copy or export it again"


def _flaw_of_ogg(content: bytes) -> str | None:
    """Pages: 27 bytes and the sizes of their segments; flag 2 starts a recording, flag 4 ends
    it."""
    at, flags, data = 0, 0, False
    while (at := content.find(b"OggS", at)) >= 0:
        if at + 27 > len(content):
            return _cut_off(at + 27, len(content))
        flags, segments = content[at + 5], content[at + 26]
        if flags & 2 and data:
            return SEVERAL
        data = data or not flags & 2
        at += 27 + segments + sum(content[at + 27 : at + 27 + segments])
        if at > len(content):
            return _cut_off(at, len(content))
    return (
        None
        if flags & 4
        else "is cut off (no page says that it ends there); copy or export it again"
    )


def _flaw_of_mp3(content: bytes, start: int) -> str | None:
    """More frames behind the bytes that the header counts, which stands in the first frame."""
    header = re.search(b"(?:Xing|Info)(.{4})(.{4})(.{4})", content[start : start + 76], re.DOTALL)
    if content[start : start + 1] != b"\xff" or not header or not header[1][3] & 2:
        return None
    # Which fields follow is said in the first: bit 1 for the number of frames, bit 2 for that of
    # bytes.
    start += int.from_bytes(header[2 + (header[1][3] & 1)])
    end = _after_id3(content, start)
    more = content[end : end + 1] == b"\xff" and content[end + 1 : end + 2] >= b"\xe0"
    # An encoder may leave its header's own frame out of the count; no frame is longer than 2,881
    # bytes.
    again = re.search(b"Xing|Info", content[end : end + 64]) or len(content) - end > 2881
    return SEVERAL if more and again else None


def _after_id3(content: bytes, at: int) -> int:
    """Where an ID3v2 tag that starts at `at` ends (its size has 7 bits a byte); `at` if there is
    none."""
    if content[at : at + 3] != b"ID3" or len(content) < at + 10:
        return at
    a, b, c, d = content[at + 6 : at + 10]
    return at + 10 + (a << 21 | b << 14 | c << 7 | d)

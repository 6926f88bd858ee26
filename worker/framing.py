"""A short cut through HTTP's chunked framing (RFC 9112, 7.1), for reads that hold nothing but whole, plain chunks.

Nearly all reads of a paced stream are one such chunk, and a general parser takes as long for it as all the rest of a
delta takes. What is not exactly so (extensions, trailers, the last chunk, parts of chunks) is for the parser.
"""

import re

_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,8})\r\n")


def unframed(data: bytes) -> bytes | None:
    """What the chunks contain, if `data` is whole chunks, at least one; None if it is not, or has the last one."""
    if not data.endswith(b"\r\n"):
        return None
    bodies = []
    at, end = 0, len(data)
    while at < end:
        line = _SIZE_LINE.match(data, at)
        if line is None:
            return None
        start = line.end()
        stop = start + int(line[1], 16)
        if stop == start or data[stop : stop + 2] != b"\r\n":
            return None
        bodies.append(data[start:stop])
        at = stop + 2
    return b"".join(bodies) if bodies else None

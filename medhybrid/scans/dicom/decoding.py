"""Decoding of frames with pydicom. Compressed frames are decoded in worker processes.

A damaged stream can crash a decoder, and with it the process. A worker starts with the first compressed frame, is reused for
later frames, and ends with this process.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medhybrid.scans.dicom.jpeg_stream import precision_of

WORKER = Path(__file__).with_name("decode_worker.py")

IN_THIS_PROCESS = ("1.2.840.10008.1.2.5", "1.2.840.10008.1.2.1.98")
"""Encapsulated transfer syntaxes that pydicom decodes without a library: RLE, and uncompressed fragments."""

BYTE_BITS = 8

JPEG_SYNTAXES = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51")
"""Transfer syntaxes of lossy JPEG."""

ATTRIBUTES = (
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "PlanarConfiguration",
    "PhotometricInterpretation",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
)
"""Attributes of a header that decoders read."""

MAX_SECONDS = 20.0
"""Time limit for decoding a frame. Some decoders do not end for damaged streams."""

SECONDS_PER_BYTE = 1e-6
"""Additional time for large frames, per byte of their values."""


class DecodingError(Exception):
    """Failed decoding of a frame.

    Attributes
    ----------
    kind : str
        Type of the decoder's error, or the signal or exit status of its process.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def decode_frame(dataset: Any, index: int, syntax: str, **options: Any) -> NDArray[np.generic]:
    """Decode the stored values (Y, X) of a frame. Colour images have a further axis of samples.

    Parameters
    ----------
    dataset : Dataset
        The image.
    index : int
        Number of the frame, from 0.
    syntax : str
        Transfer syntax of the pixel data.
    options
        Options of pydicom's decoder.

    Raises
    ------
    DecodingError
        If the frame cannot be decoded, or the decoder crashes or exceeds its time limit.
    """
    from pydicom.pixels import get_decoder
    from pydicom.uid import UID

    uid = UID(syntax)
    try:
        if not uid.is_encapsulated or syntax in IN_THIS_PROCESS:
            values, _ = get_decoder(uid).as_array(dataset, index=index, raw=True, **options)
            return np.asarray(values).astype(values.dtype.newbyteorder("="), copy=False)
        stream = frame_stream(dataset, index)
    except Exception as error:  # decoders raise many kinds of exceptions
        raise DecodingError(type(error).__name__, str(error)) from error
    attributes = {n: _plain(getattr(dataset, n, None)) for n in ATTRIBUTES}
    attributes = {n: v for n, v in attributes.items() if v is not None}
    n_bits = attributes.get("BitsStored")
    if syntax in JPEG_SYNTAXES and (n_bits in range(1, 9) or precision_of(stream) == BYTE_BITS):
        attributes["BitsAllocated"] = 8  # pydicom refuses 8-bit streams under 16 allocated bits
        if n_bits not in range(1, 9):
            attributes |= {"BitsStored": 8, "HighBit": 7}
    sizes = [v for n in ("Rows", "Columns", "SamplesPerPixel") if isinstance(v := attributes.get(n, 1), int)]
    header = {
        "syntax": syntax,
        "options": options,
        "attributes": attributes,
        "n_bytes": len(stream),
        "n_frame_bytes": int(np.prod(sizes, dtype=object)) * 4,
    }
    return _decode_elsewhere(header, stream)


ITEM = b"\xfe\xff\x00\xe0"
"""Tag at the start of the Basic Offset Table, and of each fragment of a compressed stream."""


def frame_stream(dataset: Any, index: int) -> bytes:
    """Return the compressed stream of a frame. Raises pydicom's exceptions for damaged fragments."""
    from pydicom.encaps import generate_fragments, get_frame, parse_fragments

    table = getattr(dataset, "ExtendedOffsetTable", None), getattr(dataset, "ExtendedOffsetTableLengths", None)
    n_frames = int(getattr(dataset, "NumberOfFrames", 1) or 1)
    offsets = None if None in table else table
    content = dataset.PixelData
    if offsets is None and _has_wrong_offsets(content, index):
        file = io.BytesIO(content)
        starts = parse_fragments(_after_table(file))[1]
        if len(starts) == n_frames:  # a fragment for each frame
            file.seek(starts[index])
            return bytes(next(generate_fragments(file)))
    return bytes(get_frame(content, index, number_of_frames=n_frames, extended_offsets=offsets))


def _after_table(file: io.BytesIO) -> io.BytesIO:
    """Set the position of compressed pixel data behind the Basic Offset Table."""
    file.seek(4)
    file.seek(int.from_bytes(file.read(4), "little"), io.SEEK_CUR)
    return file


def _has_wrong_offsets(content: bytes, index: int) -> bool:
    """Return whether the Basic Offset Table of a compressed stream is not in order, or wrong at a frame or the next one."""
    n = int.from_bytes(content[4:8], "little")
    if content[:4] != ITEM or n % 4 or not 0 < n <= len(content) - 8:
        return False
    offsets = np.frombuffer(content, "<u4", n // 4, 8).astype(np.int64)
    are_items = all(content[8 + n + o : 12 + n + o] == ITEM for o in offsets[index : index + 2].tolist())
    return not are_items or offsets[0] != 0 or bool((np.diff(offsets) <= 0).any())


def _plain(value: Any) -> int | str | None:
    """Convert a value to a plain int or str for JSON; return None for other types."""
    return int(value) if isinstance(value, int) else str(value) if isinstance(value, str) else None


class _Worker:
    """Worker process that decodes one frame at a time."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        pipe = subprocess.PIPE
        command = [sys.executable, "-P", str(WORKER)]
        env = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, env=env)

    def decode(self, header: dict[str, Any], stream: bytes) -> NDArray[np.generic]:
        """Decode a frame; raises `DecodingError`, or `OSError` if the process has ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        limit_s = MAX_SECONDS + SECONDS_PER_BYTE * header["n_frame_bytes"]
        timer = threading.Timer(limit_s, self._process.kill)
        timer.start()
        try:
            self._process.stdin.write(json.dumps(header).encode() + b"\n" + stream)
            self._process.stdin.flush()
            line = self._process.stdout.readline()
            reply = json.loads(line) if line else {}
            content = self._process.stdout.read(reply.get("n_bytes", 0))
        finally:
            timer.cancel()
        if len(content) < reply.get("n_bytes", 1):
            raise BrokenPipeError
        if "error" in reply:
            raise DecodingError(reply["error"], reply["message"])
        return np.frombuffer(content, reply["type"]).reshape(reply["shape"])

    def end(self) -> int:
        """Stop the process, and return its exit status (negative for a signal)."""
        for stream in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                if stream is not None:
                    stream.close()
        try:
            return self._process.wait(1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()


_idle: list[_Worker] = []
_lock = threading.Lock()


def _decode_elsewhere(header: dict[str, Any], stream: bytes) -> NDArray[np.generic]:
    """Decode a frame in an idle worker, or in a new one."""
    with _lock:
        _idle[:] = [w for w in _idle if w.owner == os.getpid()]  # after a fork, workers still belong to the parent
        waiting = _idle.pop() if _idle else None
    worker = waiting or _Worker()
    try:
        values = worker.decode(header, stream)
    except OSError as error:
        status = worker.end()
        if waiting is not None:  # it may have ended while idle: try another worker
            return _decode_elsewhere(header, stream)
        how = f"signal {-status}" if status < 0 else f"status {status}"
        raise DecodingError(f"a stream that crashes the decoder ({how})", "the decoder's process ended") from error
    except BaseException:  # a damaged stream may have corrupted the worker's memory: use it for no other frame
        worker.end()
        raise
    with _lock:
        _idle.append(worker)
    return values


@atexit.register
def _end_all() -> None:
    while _idle:
        worker = _idle.pop()
        if worker.owner == os.getpid():
            worker.end()

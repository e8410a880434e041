"""Decode compressed frames for another process, as a program: what damages a decoder ends this process and no other.

Read from standard input, and written to standard output, are a line of JSON and the bytes that it counts, again and again. This
file imports nothing of medhybrid, so that it starts quickly.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any, BinaryIO

MEMORY_FACTOR = 64
"""Bytes that a decoder may take for each byte of a frame, beside `MEMORY_FREE`."""

MEMORY_FREE = 2 << 30


def decode(header: dict[str, Any], stream: bytes) -> Any:
    """Decode one frame (Y, X) as it is stored.

    Parameters
    ----------
    header : dict
        `syntax`, `options` of the decoder, `attributes` of the image.
    """
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.pixels import get_decoder
    from pydicom.uid import UID

    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(header["syntax"])
    for name, value in header["attributes"].items():
        setattr(dataset, name, value)
    dataset.NumberOfFrames = 1
    dataset.PixelData = encapsulate([stream])
    dataset["PixelData"].VR = "OB"
    values, _ = get_decoder(UID(header["syntax"])).as_array(dataset, index=0, raw=True, **header["options"])
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def bound_memory(n_frame_bytes: int) -> None:
    """Let an allocation fail that no frame of this size needs, where the system can."""
    try:
        import resource
    except ImportError:
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = MEMORY_FREE + MEMORY_FACTOR * n_frame_bytes
    resource.setrlimit(resource.RLIMIT_AS, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


def answer(source: BinaryIO, target: BinaryIO) -> bool:
    """Decode the next frame and write it, or why it cannot be decoded; False at the end."""
    line = source.readline()
    if not line:
        return False
    header = json.loads(line)
    stream = source.read(header["n_bytes"])
    try:
        bound_memory(header["n_frame_bytes"])
        values = decode(header, stream)
        content, reply = values.tobytes(), {"type": values.dtype.str, "shape": values.shape}
    except Exception as error:  # each decoder raises its own kinds
        content, reply = b"", {"error": type(error).__name__, "message": str(error)[:1000]}
    target.write(json.dumps(reply | {"n_bytes": len(content)}).encode() + b"\n")
    target.write(content)
    target.flush()
    return True


def main() -> None:
    """Answer until the other process closes its end."""
    target = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # decoders print
    while answer(sys.stdin.buffer, target):
        pass


if __name__ == "__main__":
    main()

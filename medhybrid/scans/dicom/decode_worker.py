"""Program that decodes compressed frames for another process. A stream that crashes a decoder ends only this process.

Each request on standard input, and each reply on standard output, is a line of JSON followed by the number of bytes given in
it. This file does not import medhybrid, so that it starts quickly.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any, BinaryIO

JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"
"""Transfer syntax of JPEG with 8 or 12 bits."""

MEMORY_FACTOR = 64
"""Memory limit of a decoder in bytes per byte of the frame, in addition to `MEMORY_FREE`."""

MEMORY_FREE = 2 << 30


def decode(header: dict[str, Any], stream: bytes) -> Any:
    """Decode the stored values (Y, X) of one frame.

    Parameters
    ----------
    header : dict
        The transfer syntax (`syntax`), `options` of the decoder, and `attributes` of the image.
    stream : bytes
        The compressed stream.
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
    if header["syntax"] == JPEG_EXTENDED and int(header["attributes"].get("BitsStored", 0)) > 8:
        return decode_by_itk(dataset)
    values, _ = get_decoder(UID(header["syntax"])).as_array(dataset, index=0, raw=True, **header["options"])
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def decode_by_itk(dataset: Any) -> Any:
    """Decode the stored values of an image of one frame with SimpleITK: other decoders have no JPEG of 12 bits."""
    import tempfile

    import SimpleITK as sitk
    from pydicom.uid import SecondaryCaptureImageStorage, generate_uid

    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "frame.dcm")
        dataset.save_as(path, enforce_file_format=True)
        values = sitk.GetArrayFromImage(sitk.ReadImage(path))
    return values.reshape(dataset.Rows, dataset.Columns)


def bound_memory(n_frame_bytes: int) -> None:
    """Limit the memory of this process to the needs of a frame of this size, if the system supports it."""
    try:
        import resource
    except ImportError:
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = MEMORY_FREE + MEMORY_FACTOR * n_frame_bytes
    resource.setrlimit(resource.RLIMIT_AS, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


def answer(source: BinaryIO, target: BinaryIO) -> bool:
    """Decode the next frame, and write its values or the error. Return False at the end of the input."""
    line = source.readline()
    if not line:
        return False
    header = json.loads(line)
    stream = source.read(header["n_bytes"])
    try:
        bound_memory(header["n_frame_bytes"])
        values = decode(header, stream)
        content, reply = values.tobytes(), {"type": values.dtype.str, "shape": values.shape}
    except Exception as error:  # decoders raise many kinds of exceptions
        content, reply = b"", {"error": type(error).__name__, "message": str(error)[:1000]}
    target.write(json.dumps(reply | {"n_bytes": len(content)}).encode() + b"\n")
    target.write(content)
    target.flush()
    return True


def main() -> None:
    """Process requests until the other process closes standard input."""
    target = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # decoders print to standard output, which must hold only replies
    while answer(sys.stdin.buffer, target):
        pass


if __name__ == "__main__":
    main()

"""Reading of DICOM SEG files: segment names and frames.

Only attributes that are needed for masks are read. Real segmentations often lack other attributes that the standard requires
(SegmentAlgorithmType, codes, a preamble).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medhybrid.errors import ScanError
from medhybrid.scans.dicom.attributes import integer, name_text, restore_vrs, text, value_of
from medhybrid.scans.dicom.concatenation import part_of_concatenation
from medhybrid.scans.dicom.decoding import DecodingError, decode_frame, frame_stream
from medhybrid.scans.dicom.headers import load_dataset
from medhybrid.scans.dicom.jpeg_stream import CHECKED_SYNTAXES, find_damage_of
from medhybrid.scans.dicom.pixel_bytes import PLAIN_SYNTAXES, syntax_of
from medhybrid.scans.dicom.segment_names import label_of
from medhybrid.scans.dicom.surplus import count_frames, find_surplus

Groups = Callable[[str], Any]
"""Function that returns a functional group of a frame by its name, or None."""

KINDS = ("BINARY", "LABELMAP", "FRACTIONAL")

SPARE_BYTES = 16
"""Largest number of bytes after the last frame that count as padding."""

SHOWN_VALUES = 6

BACKGROUND = 0
"""Number of the background in a label map without PixelPaddingValue. Some files list it as a segment."""


@dataclass(frozen=True, slots=True)
class SegFile:
    """Segmentation with masks as frames.

    Attributes
    ----------
    names : dict
        Names of the segments by number.
    is_labelmap : bool
        True if frames hold segment numbers (LABELMAP), False if each frame is the mask of one segment.
    """

    path: Path
    dataset: Any
    names: dict[int, str]
    is_labelmap: bool

    @classmethod
    def open(cls, path: Path) -> SegFile:
        """Open a segmentation; raises `ScanError` if it cannot be read or holds probabilities.

        Some programs write masks as FRACTIONAL, with two values only.
        """
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                dataset = load_dataset(path, defers=False)
                restore_vrs(dataset)
                items = list(value_of(dataset, "SegmentSequence") or [])
        except ScanError as error:
            raise unreadable(path, str(error)) from error
        except Exception as error:  # damaged files raise many kinds of exceptions
            raise unreadable(path, type(error).__name__) from error
        part = part_of_concatenation(dataset)
        if part is not None and (part.total > 1 or part.number > 1):
            raise unreadable(
                path, f"part {part.number} of {part.total or 'several'}, of which each has some of the frames"
            )
        kind = text(dataset, "SegmentationType").upper() or ("BINARY" if integer(dataset, "BitsAllocated") == 1 else "")
        if kind not in KINDS:
            raise unreadable(path, f"SegmentationType {kind or 'absent'}")
        is_labelmap = kind == "LABELMAP"
        padding = integer(dataset, "PixelPaddingValue")  # the background of a label map (PS3.3 C.8.20.2)
        background = (BACKGROUND if padding is None else padding) if is_labelmap else None
        opened = cls(path, dataset, _name_segments(items, dataset, path, background), is_labelmap)
        if kind == "FRACTIONAL":
            opened._refuse_probabilities()
        return opened

    @property
    def n_frames(self) -> int:
        """Return the number of frames."""
        return integer(self.dataset, "NumberOfFrames") or 1

    def frames(self) -> Iterator[tuple[Groups, int | None]]:
        """Yield the functional groups and the segment number (None in a label map) of each frame.

        Raises
        ------
        ScanError
            If the segment of a frame is unknown, or the number of frames differs from the header.
        """
        self._refuse_further_frames()
        shared = next(iter(value_of(self.dataset, "SharedFunctionalGroupsSequence") or []), None)
        items = list(value_of(self.dataset, "PerFrameFunctionalGroupsSequence") or [])
        if len(items) != self.n_frames:
            raise unreadable(self.path, f"{self.n_frames} frames, but functional groups for {len(items)}")
        for item in items:

            def group(name: str, item: Any = item) -> Any:
                for place in (item, shared):
                    found = value_of(place, name) if place is not None else None
                    if found:
                        return found[0]
                return None

            yield group, None if self.is_labelmap else self._segment_of(group)

    def _segment_of(self, group: Groups) -> int:
        identification = group("SegmentIdentificationSequence")
        number = None if identification is None else integer(identification, "ReferencedSegmentNumber")
        if number is not None:
            return number
        if len(self.names) == 1:
            return next(iter(self.names))
        raise unreadable(self.path, "a frame without the number of its segment")

    def pixels(self, index: int) -> NDArray[np.generic]:
        """Decode a frame (row, column) with the values 0 and 1, or with segment numbers."""
        from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian

        rows, columns = integer(self.dataset, "Rows") or 0, integer(self.dataset, "Columns") or 0
        syntax, content = syntax_of(self.dataset), self.dataset.PixelData
        bits = integer(self.dataset, "BitsAllocated") or 0
        is_plain = syntax in (*PLAIN_SYNTAXES, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian)
        if is_plain and len(content) > self.n_frames * rows * columns * bits // 8 + SPARE_BYTES:
            raise unreadable(self.path, f"pixels of more frames than NumberOfFrames {self.n_frames}")
        if bits == 1 and is_plain:
            n_pixels = rows * columns  # a frame may start within a byte
            first = index * n_pixels
            if syntax == ExplicitVRBigEndian and self.dataset["PixelData"].VR == "OW":
                begin = first // 16 * 2  # of the word in which the frame starts
                content, first = (
                    _with_bytes_exchanged(content[begin : (first + n_pixels + 15) // 16 * 2]),
                    first - 8 * begin,
                )
            part = np.frombuffer(content, np.uint8, (first + n_pixels + 7) // 8 - first // 8, first // 8)
            return np.unpackbits(part, bitorder="little")[first % 8 : first % 8 + n_pixels].reshape(rows, columns)
        try:
            if UID(syntax).is_encapsulated:
                stream = self._stream(index)
                damage = find_damage_of(syntax, stream, rows, columns, bits) if syntax in CHECKED_SYNTAXES else ""
                if damage := damage or find_surplus(syntax, stream, rows * columns, bits):
                    raise unreadable(self.path, damage)
            return decode_frame(self.dataset, index, syntax)
        except DecodingError as error:
            raise unreadable(self.path, error.kind) from error

    def _refuse_probabilities(self) -> None:
        """Raise `ScanError` unless all pixels are 0 or the value of a probability of 1, which some programs write as 1."""
        highest = integer(self.dataset, "MaximumFractionalValue")
        found: set[int] = set()
        for index in range(self.n_frames):
            found |= set(np.unique(self.pixels(index)).tolist())
            if not any(found <= {0, one} for one in (1, highest)):
                raise ScanError(
                    f"{self.path.name} holds probabilities, not masks",
                    expected=f"a BINARY or LABELMAP segmentation, or FRACTIONAL with the values 0 and {highest} only",
                    found=f"FRACTIONAL with the values {', '.join(map(str, sorted(found)[:SHOWN_VALUES]))}",
                    remedy="apply a threshold, and export it as BINARY",
                )

    def _stream(self, index: int) -> bytes:
        try:
            return frame_stream(self.dataset, index)
        except Exception as error:  # damaged fragments raise many kinds of exceptions
            raise unreadable(self.path, type(error).__name__) from error

    def _refuse_further_frames(self) -> None:
        from pydicom.uid import UID

        syntax = syntax_of(self.dataset)
        if not UID(syntax).is_encapsulated:
            return
        try:
            n_frames = count_frames(self.dataset, syntax)
        except Exception as error:  # damaged fragments raise many kinds of exceptions
            raise unreadable(self.path, type(error).__name__) from error
        if n_frames > self.n_frames:
            raise unreadable(self.path, f"{n_frames} frames, but NumberOfFrames {self.n_frames}")


def _with_bytes_exchanged(content: bytes) -> bytes:
    """Exchange both bytes of each word, as words of big-endian files store bits (PS3.5 8.1.1)."""
    return np.frombuffer(content[: len(content) // 2 * 2], np.uint16).byteswap().tobytes()


def _name_segments(items: list[Any], dataset: Any, path: Path, background: int | None) -> dict[int, str]:
    """Return the segments' names by number, without that of the background of a label map."""
    names: dict[int, str] = {}
    for n, item in enumerate(items, start=1):
        number = integer(item, "SegmentNumber")
        number = n if number is None else number
        if number == background:
            continue
        if number in names:
            raise unreadable(path, f"two segments with number {number}")
        label, identifier, description = (
            name_text(item, keyword, dataset) for keyword in ("SegmentLabel", "TrackingID", "SegmentDescription")
        )
        names[number] = label_of(label, identifier) or description or f"segment {number}"
    if not names:
        raise unreadable(path, "no segment")
    return names


def unreadable(path: Path, found: str) -> ScanError:
    """Return the error for a segmentation that cannot be read."""
    return ScanError(
        f"{path.name} cannot be read as DICOM SEG of this image", found=found[:200], remedy="export it again"
    )

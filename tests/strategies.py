"""Hypothesis strategies: grids in any orientation, oblique and anisotropic, and image files with valid headers."""

from __future__ import annotations

import bz2
import gzip
import zlib
from dataclasses import dataclass
from itertools import permutations, product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from medhybrid.geometry import Grid

SIGNED_PERMUTATIONS = [
    np.eye(3)[:, list(order)] * np.array(signs)
    for order in permutations(range(3))
    for signs in product((1, -1), repeat=3)
]
"""The 48 axis-aligned orientations (24 of them mirror)."""

shapes = st.tuples(st.integers(2, 14), st.integers(2, 14), st.integers(2, 14))

spacings_mm = st.tuples(*(st.floats(0.4, 6.0) for _ in range(3)))


@st.composite
def affines(draw: st.DrawFn, max_degrees: float = 40.0) -> np.ndarray:
    """Draw an affine with orientation, oblique rotation, spacing and origin."""
    orientation = SIGNED_PERMUTATIONS[draw(st.integers(0, 47))]
    angles = draw(st.tuples(*(st.floats(-max_degrees, max_degrees) for _ in range(3))))
    rotation = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    affine = np.eye(4)
    affine[:3, :3] = rotation @ orientation * np.array(draw(spacings_mm))
    affine[:3, 3] = draw(st.tuples(*(st.floats(-200, 200) for _ in range(3))))
    return affine


@st.composite
def grids(draw: st.DrawFn, max_degrees: float = 40.0) -> Grid:
    """Draw a grid of at most 14 voxels along each axis."""
    return Grid(draw(shapes), draw(affines(max_degrees)))


@dataclass(frozen=True)
class ImageFile:
    """Content of an image file, content of a second file with the voxels, and the values `(C, X, Y, Z)`."""

    suffix: str
    content: bytes
    values: np.ndarray
    beside: tuple[str, bytes] | None = None
    header: Any = None

    def write(self, folder: Path) -> Path:
        path = folder / f"x{self.suffix}"
        path.write_bytes(self.content)
        if self.beside:
            (folder / self.beside[0]).write_bytes(self.beside[1])
        return path


small_shapes = st.tuples(*(st.integers(2, 4) for _ in range(3)))  # ITK drops a last axis of 1

value_types = st.sampled_from(["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"])


@st.composite
def channel_arrays(draw: st.DrawFn) -> np.ndarray:
    """Draw values (C, X, Y, Z) of any plain type."""
    dtype = np.dtype(draw(value_types))
    shape = (draw(st.sampled_from([1, 1, 2, 3])), *draw(small_shapes))
    low = 0 if dtype.kind == "u" else -100
    return np.random.default_rng(draw(st.integers(0, 99))).integers(low, 100, shape).astype(dtype)


@st.composite
def nifti_files(draw: st.DrawFn) -> ImageFile:
    """Draw NIfTI-1 and NIfTI-2 in one file or two, with any valid transforms, unit, byte order and compression."""
    values = draw(channel_arrays())
    version = draw(st.sampled_from([1, 1, 2]))
    is_pair = draw(st.booleans())
    endian = draw(st.sampled_from("<>"))
    kinds = {
        (1, False): nib.Nifti1Header,
        (1, True): nib.nifti1.Nifti1PairHeader,
        (2, False): nib.Nifti2Header,
        (2, True): nib.nifti2.Nifti2PairHeader,
    }
    header = kinds[version, is_pair](endianness=endian)
    header.set_data_dtype(values.dtype)
    stored = values[0] if len(values) == 1 else np.moveaxis(values, 0, -1)
    is_vector = len(values) > 1 and draw(st.booleans())
    stored = stored[..., None, :] if is_vector else stored
    header.set_data_shape(stored.shape)
    header["intent_code"] = 1007 if is_vector else 0
    affine = draw(affines())
    if code := draw(st.integers(0, 4)):
        header.set_qform(affine, code)
    else:
        header["pixdim"][1:4] = draw(spacings_mm)
    if code := draw(st.integers(0, 4)):
        header.set_sform(draw(affines()) if draw(st.booleans()) else affine, code)
    header["xyzt_units"] = draw(st.sampled_from([0, 1, 2, 3])) + draw(st.sampled_from([0, 8, 16]))
    scalings = (
        [(1, 0), (0, 0)] if is_vector else [(1, 0), (0, 0), (2.5, -3), (np.nan, np.nan)]
    )  # ITK crashes with other values
    header["scl_slope"], header["scl_inter"] = draw(st.sampled_from(scalings))
    start = 0 if is_pair else draw(st.sampled_from([352, 400])) + 192 * (version - 1)
    header["vox_offset"] = start
    data = stored.astype(stored.dtype.newbyteorder(endian)).tobytes(order="F")
    pack = gzip.compress if draw(st.booleans()) else bytes
    if is_pair:
        return ImageFile(".hdr", header.binaryblock, values, ("x.img", data), header)
    content = header.binaryblock.ljust(start, b"\0") + data
    return ImageFile(".nii.gz" if pack is gzip.compress else ".nii", pack(content), values, None, header)


@st.composite
def nrrd_files(draw: st.DrawFn) -> ImageFile:
    """Draw NRRD, attached or detached, with any valid space, channel axis, encoding, byte order and skips."""
    values = draw(channel_arrays())
    endian = draw(st.sampled_from("<>"))
    place = draw(st.integers(0, 3)) if len(values) > 1 else None
    stored = values[0] if place is None else np.moveaxis(values, 0, place)
    data = stored.astype(stored.dtype.newbyteorder(endian)).tobytes(order="F")
    words = " ".join(map(str, stored.ravel(order="F")))
    n_skipped = draw(st.sampled_from([0, 0, 3]))
    encodings = {
        "raw": bytes(n_skipped) + data,
        "gzip": gzip.compress(bytes(n_skipped) + data),
        "bzip2": bz2.compress(bytes(n_skipped) + data),
        "ascii": words.encode(),
        "hex": data.hex().encode(),
    }
    encoding = draw(st.sampled_from(list(encodings)))
    names = {"f4": "float", "f8": "double"} | {
        f"{k}{n}": f"{'u' * (k == 'u')}int{8 * n}" for k in "ui" for n in (1, 2, 4, 8)
    }
    affine = draw(affines())
    vectors = ["(" + ",".join(f"{x:.17g}" for x in affine[:3, axis]) + ")" for axis in range(3)]
    kinds = ["domain"] * 3
    if place is not None:
        vectors.insert(place, "none")
        kinds.insert(place, draw(st.sampled_from(["vector", "list"])))
    spaces = ["right-anterior-superior", "LPS", "left-anterior-superior", "left-posterior-superior"]
    fields = {
        "type": names[values.dtype.str[1:]],
        "dimension": stored.ndim,
        "sizes": " ".join(map(str, stored.shape)),
        "endian": "little" if endian == "<" else "big",
        "encoding": encoding,
        "space": draw(st.sampled_from(spaces)),
        "space directions": " ".join(vectors),
        "space origin": "(" + ",".join(f"{x:.17g}" for x in affine[:3, 3]) + ")",
        "kinds": " ".join(kinds),
    }
    if n_skipped and encoding in ("raw", "gzip", "bzip2"):
        fields["byte skip"] = n_skipped
    content = encodings[encoding]
    if draw(st.booleans()):
        fields["line skip"] = 1
        content = b"a line\n" + content
    is_detached = draw(st.booleans())
    if is_detached:
        fields["data file"] = draw(st.sampled_from(["x.raw", "./x.raw"]))
    end = draw(st.sampled_from(["\n", "\r\n"]))
    text = end.join(["NRRD0005", "# a comment", *(f"{k}: {v}" for k, v in fields.items()), "key:=value"]) + end
    if is_detached:
        return ImageFile(".nhdr", text.encode(), values, ("x.raw", content))
    return ImageFile(".nrrd", (text + end).encode() + content, values)


@st.composite
def meta_files(draw: st.DrawFn) -> ImageFile:
    """Draw MetaImage, attached or detached, with any valid field names, channels, compression and byte order."""
    values = draw(channel_arrays())
    endian = draw(st.sampled_from("<>"))
    data = values.astype(values.dtype.newbyteorder(endian)).tobytes(order="F")
    names = {"u1": "UCHAR", "i1": "CHAR", "u2": "USHORT", "i2": "SHORT", "u4": "UINT", "i4": "INT"}
    names |= {"u8": "ULONG_LONG", "i8": "LONG_LONG", "f4": "FLOAT", "f8": "DOUBLE"}
    affine = draw(affines())
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    is_packed = draw(st.booleans())
    content = zlib.compress(data) if is_packed else data
    fields = {
        "ObjectType": "Image",
        "NDims": 3,
        "BinaryData": "True",
        draw(st.sampled_from(["BinaryDataByteOrderMSB", "ElementByteOrderMSB"])): str(endian == ">"),
        "CompressedData": str(is_packed),
        draw(st.sampled_from(["TransformMatrix", "Rotation", "Orientation"])): " ".join(
            f"{x:.17g}" for x in (affine[:3, :3] / spacing).T.ravel()
        ),
        draw(st.sampled_from(["Offset", "Position", "Origin"])): " ".join(f"{x:.17g}" for x in affine[:3, 3]),
        draw(st.sampled_from(["ElementSpacing", "ElementSize"])): " ".join(f"{x:.17g}" for x in spacing),
        "DimSize": " ".join(map(str, values.shape[1:])),
    }
    if is_packed:
        fields["CompressedDataSize"] = len(content)
    if len(values) > 1:
        fields["ElementNumberOfChannels"] = len(values)
    is_detached = draw(st.booleans())
    if is_detached and not is_packed:
        fields["HeaderSize"] = draw(st.sampled_from([0, 5, -1]))
        content = bytes(5 if fields["HeaderSize"] else 0) + content
    fields["ElementType"] = f"MET_{names[values.dtype.str[1:]]}"
    fields["ElementDataFile"] = "x.raw" if is_detached else "LOCAL"
    separator = draw(st.sampled_from([" = ", "=", ": "]))
    text = "".join(f"{k}{separator}{v}\n" for k, v in fields.items()).encode()
    if is_detached:
        return ImageFile(".mhd", text, values, ("x.raw", content))
    return ImageFile(".mha", text + content, values)

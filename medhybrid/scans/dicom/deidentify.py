"""De-identification of outputs: names by keyed hash, headers by dicognito with replacements derived from the key. Other
texts of patient, study and trial are removed.

One key always gives the same replacement for an identifier. Outputs of one study therefore stay together, and match source
images cleaned with the same key. Without the key, they cannot be traced back.
"""

from __future__ import annotations

import copy
import hashlib
import hmac
import os
import secrets
from pathlib import Path
from typing import Any

from medhybrid.errors import ConfigError

LEAST_KEY_BYTES = 16
"""Shortest key in bytes."""

GROUPS = (0x0008, 0x0010, 0x0012, 0x0032, 0x0038, 0x0040)
"""Groups of the attributes of patient, study, trial, visit and specimen that outputs repeat from their source."""

REPLACED = (
    "AccessionNumber",
    "PatientBirthDate",
    "PatientID",
    "PatientName",
    "ReferringPhysicianName",
    "StudyDate",
    "StudyTime",
)
"""Attributes of these groups that dicognito replaces."""

KEPT = ("SpecificCharacterSet", "ImageType", "SOPClassUID", "SOPInstanceUID", "Modality")
"""Attributes of these groups that writers read and that identify nobody; UIDs are replaced."""

EMPTIED = ("PatientSex", "PositionReferenceIndicator")

METHOD = "medhybrid: basic profile, UIDs and dates replaced"


class Deidentifier:
    """De-identification of names and headers with one key.

    Parameters
    ----------
    key : bytes
        At least 16 secret bytes.

    Raises
    ------
    ConfigError
        If the key is too short.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) < LEAST_KEY_BYTES:
            raise ConfigError("the key is too short", expected=f"at least {LEAST_KEY_BYTES} bytes", found=str(len(key)))
        self._key = key

    @classmethod
    def from_file(cls, path: str | Path) -> Deidentifier:
        """Create a de-identifier with the key in a file.

        If the file does not exist, it is created with a random key, readable only by its owner.

        Raises
        ------
        ConfigError
            If the file cannot be read or created, or the key is too short.
        """
        path = Path(path)
        try:
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                    file.write(secrets.token_hex(32).encode() + b"\n")
            return cls(path.read_bytes().strip())
        except OSError as error:
            raise ConfigError(f"key file {path} cannot be used", found=error.strerror or str(error)) from error

    def name(self, text: str) -> str:
        """Return the keyed hash of an identifier, with 20 hexadecimal digits."""
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()[:20]

    def clean(self, datasets: list[Any]) -> list[Any]:
        """Return de-identified copies of headers, without private attributes.

        Of the attributes that outputs repeat, only identifiers, names and dates remain, with other values. All others are
        removed or emptied, also those that the basic profile of PS3.15 Annex E does not list.
        """
        from dicognito.anonymizer import Anonymizer
        from pydicom.datadict import keyword_for_tag

        anonymizer = Anonymizer(seed=self._key.hex())
        cleaned = [copy.deepcopy(d) for d in datasets]
        for dataset in cleaned:
            anonymizer.anonymize(dataset)
            dataset.remove_private_tags()
            for tag in list(dataset.keys()):
                if tag.group in GROUPS and keyword_for_tag(tag) not in (*REPLACED, *KEPT):
                    del dataset[tag]
            for keyword in EMPTIED:
                setattr(dataset, keyword, "")
            dataset.PatientIdentityRemoved = "YES"
            dataset.DeidentificationMethod = ["DICOGNITO", METHOD]
        return cleaned

"""Output that does not tell the patient: names by keyed hash, headers cleaned by dicognito with a mapping from the key.

The same key maps the same identifier to the same replacement, so that outputs of one study stay together, fit source images
that were cleaned with it, and cannot be traced without it.
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


class Deidentifier:
    """Names and headers under one key.

    Parameters
    ----------
    key : bytes
        At least 16 secret bytes.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) < LEAST_KEY_BYTES:
            raise ConfigError("the key is too short", expected=f"at least {LEAST_KEY_BYTES} bytes", found=str(len(key)))
        self._key = key

    @classmethod
    def from_file(cls, path: str | Path) -> Deidentifier:
        """With the key in a file, which is made (readable by its owner alone) where there is none.

        Raises
        ------
        ConfigError
            If the file cannot be read or made, or is too short.
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
        """A name of 20 hexadecimal digits for an identifier."""
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()[:20]

    def clean(self, datasets: list[Any]) -> list[Any]:
        """Copies of headers without what identifies."""
        from dicognito.anonymizer import Anonymizer

        anonymizer = Anonymizer(seed=self._key.hex())
        cleaned = [copy.deepcopy(d) for d in datasets]
        for dataset in cleaned:
            anonymizer.anonymize(dataset)
            dataset.remove_private_tags()
        return cleaned

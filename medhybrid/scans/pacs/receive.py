"""A Storage SCP: instances that listed senders push are kept on disk by study, before they are acknowledged.

FOLDER/<study>/<instance>.dcm, both names hashes. An instance is acknowledged only after it is on disk, so that what a sender
believes stored is there after a crash.
"""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from medhybrid.config import ListenConfig
from medhybrid.scans.dicom.deflated import BLOCK, DEFLATED, inflates_beyond
from medhybrid.scans.pacs.exchange import OUT_OF_RESOURCES, PacsError

logger = logging.getLogger(__name__)

NOT_AUTHORISED, CANNOT_UNDERSTAND, SUCCESS = 0x0124, 0xC000, 0x0000


class Receiver:
    """The server; it runs in threads of its own from `start` to `stop`.

    Parameters
    ----------
    folder : Path
        Where studies are collected.
    on_stored : callable
        Told the study's folder after each instance.
    """

    def __init__(
        self, config: ListenConfig, folder: Path, *, on_stored: Callable[[Path], None] = lambda _: None
    ) -> None:
        self.config, self.folder, self._on_stored = config, folder, on_stored
        self._server: Any = None

    def start(self) -> None:
        """Begin to listen.

        Raises
        ------
        PacsError
            If the address cannot be bound.
        """
        from pynetdicom import AE, AllStoragePresentationContexts, evt
        from pynetdicom.sop_class import Verification

        config = self.config
        ae = AE(ae_title=config.ae_title)
        ae.require_called_aet = True
        ae.require_calling_aet = [s.ae_title for s in config.senders]
        ae.maximum_associations = config.max_associations
        ae.network_timeout = ae.dimse_timeout = ae.acse_timeout = config.timeout_s
        from pydicom.uid import AllTransferSyntaxes

        for context in AllStoragePresentationContexts:
            ae.add_supported_context(context.abstract_syntax or "", AllTransferSyntaxes)
        ae.add_supported_context(Verification)
        handlers = [(evt.EVT_REQUESTED, self._on_requested), (evt.EVT_C_STORE, self._on_store)]
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._server = ae.start_server((config.host, config.port), block=False, evt_handlers=handlers)
        except OSError as error:
            raise PacsError(f"cannot listen on {config.host}:{config.port}", found=error.strerror or "") from error

    def stop(self) -> None:
        """End it; what is stored stays."""
        if self._server is not None:
            self._server.shutdown()
            self._server = None

    def _may_send(self, association: Any) -> bool:
        title, address = association.requestor.ae_title, association.requestor.address
        return any(s.ae_title == title and s.address == address for s in self.config.senders)

    def _on_requested(self, event: Any) -> None:
        """Titles are checked by the library, which knows them only after this event; addresses here."""
        address = event.assoc.requestor.address
        if address not in {s.address for s in self.config.senders}:
            logger.warning("refused an association from %s: not among the senders", address)
            event.assoc.acse.send_reject(0x01, 0x01, 0x03)  # permanent, by the user, calling title not recognised
            event.assoc.kill()

    def _on_store(self, event: Any) -> int:
        if not self._may_send(event.assoc):
            return NOT_AUTHORISED
        try:
            encoded = event.encoded_dataset()
            limit = self.config.max_instance_mb << 20
            if len(encoded) > limit:
                return OUT_OF_RESOURCES
            if str(event.context.transfer_syntax) == DEFLATED and self._inflates_beyond(event, limit):
                logger.warning("an instance inflates to more than %d MB: it is refused", self.config.max_instance_mb)
                return OUT_OF_RESOURCES
            if shutil.disk_usage(self.folder).free < self.config.min_free_mb << 20:
                logger.warning("disk nearly full: instances are refused")
                return OUT_OF_RESOURCES
            study_uid = str(event.dataset.StudyInstanceUID)
            study = self.folder / _hash(study_uid)
            study.mkdir(exist_ok=True)
            if len(os.listdir(study)) >= self.config.max_study_instances:
                return OUT_OF_RESOURCES
            _write_durably(study / f"{_hash(str(event.dataset.SOPInstanceUID))}.dcm", encoded)
        except OSError:
            return OUT_OF_RESOURCES
        except Exception as error:  # a data set that cannot be parsed
            logger.warning("an instance cannot be used: %s", type(error).__name__)
            return CANNOT_UNDERSTAND
        self._on_stored(study)
        return SUCCESS

    @staticmethod
    def _inflates_beyond(event: Any, limit: int) -> bool:
        """Return whether the data set of a request, which is deflated, holds more than `limit` bytes."""
        data_set = event.request.DataSet
        data_set.seek(0)
        try:
            return inflates_beyond(iter(lambda: data_set.read(BLOCK), b""), limit)
        finally:
            data_set.seek(0)


def _hash(uid: str) -> str:
    return hashlib.sha256(uid.encode()).hexdigest()[:32]


def _write_durably(path: Path, content: bytes) -> None:
    pending = path.with_name(f".{secrets.token_hex(8)}.{path.name}")  # two senders may send one instance at once
    with pending.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    pending.replace(path)

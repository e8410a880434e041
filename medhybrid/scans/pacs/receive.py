"""Storage SCP: stores the instances that listed senders push, in one folder per study.

Files are named FOLDER/<study>/<instance>.dcm; both names are hashes. An instance is acknowledged only after it is on disk.
After a crash, all acknowledged instances still exist.
"""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from medhybrid.config import ListenConfig
from medhybrid.scans.dicom.deflated import BLOCK, DEFLATED, inflates_beyond
from medhybrid.scans.pacs.exchange import OUT_OF_RESOURCES
from medhybrid.scans.pacs.front import Address, Front

logger = logging.getLogger(__name__)

CANNOT_UNDERSTAND, SUCCESS = 0xC000, 0x0000


class Receiver:
    """Storage SCP that runs in separate threads between `start` and `stop`.

    Parameters
    ----------
    config : ListenConfig
        Address, senders and limits.
    folder : Path
        Folder for the received studies.
    on_stored : callable
        Called with the study's folder after each instance.
    """

    def __init__(
        self, config: ListenConfig, folder: Path, *, on_stored: Callable[[Path], None] = lambda _: None
    ) -> None:
        self.config, self.folder, self._on_stored = config, folder, on_stored
        self._server: Any = None
        self._front = Front(config, self._take)

    def start(self) -> None:
        """Start to listen.

        Raises
        ------
        PacsError
            If the address cannot be bound.
        """
        from pydicom.uid import AllTransferSyntaxes
        from pynetdicom import AE, AllStoragePresentationContexts, evt
        from pynetdicom.sop_class import Verification
        from pynetdicom.transport import ThreadedAssociationServer

        class HandedOver(ThreadedAssociationServer):  # type: ignore[misc, unused-ignore]
            """Server that does not listen itself: `Front` passes accepted connections to it."""

            def server_bind(self) -> None:
                """Skip binding of an address."""

            def server_activate(self) -> None:
                """Skip listening."""

        config = self.config
        ae = AE(ae_title=config.ae_title)
        ae.maximum_associations = (
            2 * config.max_associations
        )  # `Front` enforces the limit; pynetdicom also counts associations that are closing
        ae.network_timeout = ae.dimse_timeout = ae.acse_timeout = config.timeout_s
        for context in AllStoragePresentationContexts:
            ae.add_supported_context(context.abstract_syntax or "", AllTransferSyntaxes)
        ae.add_supported_context(Verification)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._server = ae.make_server(
            (config.host, config.port),
            evt_handlers=[(evt.EVT_C_STORE, self._on_store)],
            server_class=HandedOver,
        )
        self._front.start()

    def stop(self) -> None:
        """Stop listening and abort all associations. Stored instances are kept."""
        if self._server is not None:
            self._front.stop()
            for association in self._server.active_associations:
                association.abort()
            self._server.server_close()
            self._server = None

    def _take(self, connection: socket.socket, address: Address) -> None:
        self._server.process_request(connection, address)

    def _on_store(self, event: Any) -> int:
        try:
            encoded = event.encoded_dataset()
            limit = self.config.max_instance_mb << 20
            if len(encoded) > limit:
                return OUT_OF_RESOURCES
            if str(event.context.transfer_syntax) == DEFLATED and self._inflates_beyond(event, limit):
                logger.warning("instance refused: it inflates to more than %d MB", self.config.max_instance_mb)
                return OUT_OF_RESOURCES
            if shutil.disk_usage(self.folder).free < self.config.min_free_mb << 20:
                logger.warning("instances refused: the disk is nearly full")
                return OUT_OF_RESOURCES
            study_uid = str(event.dataset.StudyInstanceUID)
            study = self.folder / _hash(study_uid)
            path = study / f"{_hash(str(event.dataset.SOPInstanceUID))}.dcm"
            if not (self._store(path, encoded) or self._store(path, encoded)):
                return OUT_OF_RESOURCES
        except OSError:
            return OUT_OF_RESOURCES
        except Exception as error:  # the data set cannot be parsed
            logger.warning("instance refused: its data set cannot be read (%s)", type(error).__name__)
            return CANNOT_UNDERSTAND
        self._on_stored(study)
        return SUCCESS

    def _store(self, path: Path, encoded: bytes) -> bool:
        """Write an instance; return False if its study has too many, or its folder was moved to the queue meanwhile."""
        path.parent.mkdir(exist_ok=True)
        try:
            if len(os.listdir(path.parent)) >= self.config.max_study_instances:
                return False
            _write_durably(path, encoded)
        except FileNotFoundError:
            return False
        return True

    @staticmethod
    def _inflates_beyond(event: Any, limit: int) -> bool:
        """Return True if the deflated data set of a request inflates to more than `limit` bytes."""
        data_set = event.request.DataSet
        data_set.seek(0)
        try:
            return inflates_beyond(iter(lambda: data_set.read(BLOCK), b""), limit)
        finally:
            data_set.seek(0)


def _hash(uid: str) -> str:
    return hashlib.sha256(uid.encode()).hexdigest()[:32]


def _write_durably(path: Path, content: bytes) -> None:
    pending = path.with_name(
        f".{secrets.token_hex(8)}.{path.name}"
    )  # random: two senders may send the same instance at the same time
    with pending.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    pending.replace(path)

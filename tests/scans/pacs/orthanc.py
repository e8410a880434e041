"""Orthanc server with its DICOMweb plugin, for tests."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.patience import patience_s, wait_until
from tests.servers import free_port

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


def is_installed() -> bool:
    return shutil.which("Orthanc") is not None and PLUGIN.exists()


@dataclass(frozen=True)
class Orthanc:
    http: int
    dicom: int

    def call(self, path: str, data: bytes | None = None) -> Any:
        request = urllib.request.Request(f"http://127.0.0.1:{self.http}{path}", data=data)
        with urllib.request.urlopen(request, timeout=patience_s()) as answer:
            return json.loads(answer.read())

    def is_up(self) -> bool:
        try:
            self.call("/system")
        except OSError:
            return False
        return True

    def push(self, paths: list[Path]) -> None:
        for path in paths:
            self.call("/instances", path.read_bytes())

    def instances(self, modality: str) -> list[bytes]:
        query = {"Level": "Instance", "Query": {"Modality": modality}}
        found = self.call("/tools/find", json.dumps(query).encode())
        files = []
        for name in found:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{self.http}/instances/{name}/file", timeout=patience_s()
            ) as answer:
                files.append(answer.read())
        return files


@contextmanager
def running_orthanc(folder: Path, listener_port: int) -> Iterator[Orthanc]:
    server = Orthanc(free_port(), free_port())
    config = {
        "Name": "test",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "HttpPort": server.http,
        "DicomPort": server.dicom,
        "DicomAet": "ORTHANC",
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomAlwaysAllowGet": True,
        "Plugins": [str(PLUGIN)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        "DicomModalities": {"medhybrid": ["MEDHYBRID", "127.0.0.1", listener_port]},
    }
    (folder / "orthanc.json").write_text(json.dumps(config))
    with (folder / "orthanc.log").open("w") as log:
        process = subprocess.Popen(["Orthanc", str(folder / "orthanc.json")], stdout=log, stderr=log)
        try:
            wait_until(server.is_up, "an answer of Orthanc", process=process)
            yield server
        finally:
            process.terminate()
            process.wait(patience_s())

"""Configuration of `medhybrid listen`."""

from __future__ import annotations

from ipaddress import ip_address

from pydantic import Field, field_validator

from medhybrid.config.base import Frozen, mode_text


class SenderConfig(Frozen):
    """Sender that the listener accepts. AE title and IP address must both match."""

    ae_title: str = Field(min_length=1, max_length=16, description="AE title of the sender.")
    address: str = Field("127.0.0.1", description="IP address of the sender.")

    @field_validator("address")
    @classmethod
    def _address_is_one(cls, value: str) -> str:
        return str(ip_address(value))  # the spelling that a connection reports, to compare with


class ListenConfig(Frozen):
    """Settings of `medhybrid listen`: accepted senders, destination of results, limits."""

    ae_title: str = Field("MEDHYBRID", min_length=1, max_length=16, description="AE title of the listener.")
    host: str = Field("127.0.0.1", description="Address to listen on; by default only this host can connect.")
    port: int = Field(11112, ge=1, le=65535, description="Port to listen on.")
    senders: tuple[SenderConfig, ...] = Field(min_length=1, description="Accepted senders; all others are refused.")
    send_to: str = Field(
        description="Destination of SEG and report: `dimse://AETITLE@host:port` or `dicomweb://host:port/path`."
    )
    spool: str = Field("spool", description="Folder of the queue. It is kept over a restart.")
    mode: str = Field(
        "0600",
        description="Permissions of files in the spool, for example 0600 or 0640. Folders get the same, and can be entered.",
    )
    wait_s: float = Field(30.0, gt=0, description="A study is complete if no instance arrives for this many seconds.")
    max_associations: int = Field(8, ge=1, description="Highest number of simultaneous associations.")
    max_instance_mb: int = Field(1024, ge=1, description="Largest accepted instance, in MB.")
    max_study_instances: int = Field(20_000, ge=1, description="Highest number of accepted instances per study.")
    min_free_mb: int = Field(1024, ge=0, description="Instances are refused if less disk space is free, in MB.")
    timeout_s: float = Field(
        60.0, gt=0, description="An association without traffic is closed after this many seconds."
    )

    _mode_is_one = field_validator("mode", mode="before")(mode_text)

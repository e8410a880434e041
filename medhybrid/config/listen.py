"""The config of `medhybrid listen`."""

from __future__ import annotations

from ipaddress import ip_address

from pydantic import Field, field_validator

from medhybrid.config.base import Frozen, mode_text


class SenderConfig(Frozen):
    """Who may send to the listener: both must match."""

    ae_title: str = Field(min_length=1, max_length=16, description="Its AE title.")
    address: str = Field("127.0.0.1", description="Its IP address.")

    @field_validator("address")
    @classmethod
    def _address_is_one(cls, value: str) -> str:
        return str(ip_address(value))  # in the spelling in which connections tell it


class ListenConfig(Frozen):
    """`medhybrid listen`: what it accepts, and where results go."""

    ae_title: str = Field("MEDHYBRID", min_length=1, max_length=16, description="Our AE title.")
    host: str = Field("127.0.0.1", description="Address to listen on; loopback unless told otherwise.")
    port: int = Field(11112, ge=1, le=65535, description="Port to listen on.")
    senders: tuple[SenderConfig, ...] = Field(min_length=1, description="Who may send; everything else is refused.")
    send_to: str = Field(
        description="Where SEG and report go: `dimse://AETITLE@host:port` or `dicomweb://host:port/path`."
    )
    spool: str = Field("spool", description="Folder of the queue; it survives a restart.")
    mode: str = Field(
        "0600", description="Permissions of files in the spool, as 0600 or 0640; folders can be entered by the same."
    )
    wait_s: float = Field(30.0, gt=0, description="A study is complete when nothing came for so long.")
    max_associations: int = Field(8, ge=1, description="Senders at once.")
    max_instance_mb: int = Field(1024, ge=1, description="A larger instance is refused.")
    max_study_instances: int = Field(20_000, ge=1, description="More instances of a study are refused.")
    min_free_mb: int = Field(1024, ge=0, description="With less space on the disk, instances are refused.")
    timeout_s: float = Field(60.0, gt=0, description="A silent sender is dropped after so long.")

    _mode_is_one = field_validator("mode", mode="before")(mode_text)

"""Free memory within the limits of a container or job; the trees of control groups are written as Linux has them."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from medhybrid.memory import free_memory

GIB = 1 << 30
V1, V2 = "memory.limit_in_bytes", "memory.max"


@pytest.fixture(autouse=True)
def _machine_of_256_gib(monkeypatch: pytest.MonkeyPatch) -> None:
    available = psutil.virtual_memory()._replace(available=256 * GIB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: available)


def write_group(folder: Path, version: str, limit: str | int, used: int = 0, cache: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    use, key = (
        ("memory.current", "inactive_file") if version == V2 else ("memory.usage_in_bytes", "total_inactive_file")
    )
    (folder / version).write_text(f"{limit}\n")
    (folder / use).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 1\n{key} {cache}\n")


def free_in(tmp_path: Path, membership: str = "") -> int:
    (tmp_path / "membership").write_text(membership)
    return free_memory(tmp_path / "groups", tmp_path / "membership")


def test_without_control_groups_the_memory_of_the_host_is_free(tmp_path: Path) -> None:
    assert free_memory(tmp_path / "none", tmp_path / "no file") == 256 * GIB


@pytest.mark.parametrize(("version", "place"), [(V2, "groups"), (V1, "groups/memory")])
def test_free_memory_of_a_container_is_limit_minus_use_plus_cache(tmp_path: Path, version: str, place: str) -> None:
    write_group(tmp_path / place, version, 8 * GIB, used=5 * GIB, cache=2 * GIB)
    assert free_in(tmp_path) == 5 * GIB


@pytest.mark.parametrize(("version", "unlimited"), [(V2, "max"), (V1, 0x7FFFFFFFFFFFF000)])
def test_a_group_without_limit_does_not_restrict_the_host(tmp_path: Path, version: str, unlimited: str | int) -> None:
    write_group(tmp_path / "groups" / ("memory" if version == V1 else ""), version, unlimited, used=GIB)
    assert free_in(tmp_path) == 256 * GIB


@pytest.mark.parametrize(
    ("version", "membership", "root"),
    [
        (V2, "0::/system.slice/job_7/step_0\n", "groups"),
        (V1, "5:cpu,cpuacct:/x\n4:memory:/system.slice/job_7/step_0\n0::/other\n", "groups/memory"),
    ],
)
def test_limits_of_all_parent_groups_apply(tmp_path: Path, version: str, membership: str, root: str) -> None:
    write_group(tmp_path / root / "system.slice" / "job_7", version, 16 * GIB, used=4 * GIB)
    write_group(tmp_path / root / "system.slice" / "job_7" / "step_0", version, 32 * GIB)
    assert free_in(tmp_path, membership) == 12 * GIB


def test_use_above_the_limit_gives_zero_free_memory(tmp_path: Path) -> None:
    write_group(tmp_path / "groups", V2, GIB, used=2 * GIB)
    assert free_in(tmp_path) == 0

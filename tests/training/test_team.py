"""Distributed training equals training in one process, and a run can be resumed with another number of processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

import medhybrid
from medhybrid.config import load_config
from medhybrid.errors import ConfigError
from medhybrid.networks.transformer import DropPath
from medhybrid.steps.train import resume
from medhybrid.training.team import ALONE, Team, refuse_team
from tests.patience import patience_s
from tests.servers import free_port
from tests.synthetic import StudyFolder
from tests.training.trainers import losses_of, train_command

CHANGES = [
    "tracking.kind=jsonl",
    "training.iterations=20",
    "network.drop_path=0.5",
    "network.depth=2",
    "augment.paste_probability=0.5",
]


@given(st.integers(1, 9), st.integers(1, 5))
def test_the_parts_of_all_processes_cover_the_batch_once(size: int, each: int) -> None:
    parts = [Team(rank, size).part(size * each) for rank in range(size)]

    assert [place for part in parts for place in part] == list(range(size * each))


def test_pasting_needs_the_next_sample_too() -> None:
    assert [Team(r, 2).places(4, pastes=True) for r in range(2)] == [(0, 1, 2), (2, 3, 0)]
    assert Team(1, 2).places(4, pastes=False) == (2, 3)
    assert ALONE.places(4, pastes=True) == (0, 1, 2, 3)


def test_a_batch_that_cannot_be_divided_evenly_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"batch of 2 cannot be divided among 3 processes.*prepare\.batch_size"):
        Team(0, 3).part(2)


def test_a_command_for_one_process_refuses_several(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_team("tune")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"tune cannot be distributed over several processes.*WORLD_SIZE=2"):
        refuse_team("tune")


def test_stochastic_depth_is_drawn_for_the_whole_batch() -> None:
    whole = DropPath(0.5)
    x = torch.ones(8, 3, 2)
    parts = []
    for part in (0, 1):
        torch.manual_seed(0)
        module = DropPath(0.5)
        module.part = (part, 2)
        parts.append(module(x[:4]))
    torch.manual_seed(0)

    assert torch.equal(whole(x), torch.cat(parts))


@pytest.mark.slow
@pytest.mark.usefixtures("blank_pictures")
def test_two_processes_train_as_one_and_one_process_resumes_their_run(prepared: StudyFolder, tmp_path: Path) -> None:
    one = medhybrid.train(load_config(prepared.folder / "small.yaml", [f"runs={tmp_path / 'one'}", *CHANGES])).folder
    done = subprocess.run(
        train_command(prepared, tmp_path / "two", *CHANGES, "--processes", "2"), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (two,) = (tmp_path / "two" / "blobs").iterdir()

    assert done.stdout.count("run and model:") == 1, "only the first process prints"
    losses, expected = losses_of(two), losses_of(one)
    assert losses == pytest.approx(expected, rel=1e-4)
    assert len(losses) == 2
    ours, theirs = (load_file(f / "model" / "model.safetensors") for f in (two, one))
    for name in theirs:  # rounding differs by 2e-5 after 2 steps, and by 1e-3 after these 20
        np.testing.assert_allclose(ours[name], theirs[name], atol=3e-3, err_msg=name)
    assert [r.split(",")[0] for r in (two / "validation.csv").read_text().splitlines()] == [
        r.split(",")[0] for r in (one / "validation.csv").read_text().splitlines()
    ]

    longer = [resume(run, ["training.iterations=+10"]) for run in (one, two)]
    assert [r.n_steps for r in longer] == [30, 30]
    assert losses_of(two) == pytest.approx(losses_of(one), rel=1e-3)


PARTING = """
from pathlib import Path
import torch
from medhybrid.training.team import join_team

with join_team(torch.device("cpu")) as team:
    import torch.distributed.nn  # as torch does during a training
    assert team.tell(team.rank) == 0
print(*{(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()})
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the names of threads from /proc")
def test_a_closed_process_group_leaves_no_thread() -> None:
    common = os.environ | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    common |= {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PARTING]
    team = [subprocess.Popen(command, env=common | {"RANK": str(i)}, stdout=subprocess.PIPE, text=True) for i in (0, 1)]

    assert [p.communicate(timeout=patience_s())[0] for p in team] == ["python\n", "python\n"]

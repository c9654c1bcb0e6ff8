"""What schedulers put into the environment becomes a rank, or none, or a question; never a wrong share."""

import pytest

from cxrbench.cli.launching import way_of
from cxrbench.errors import CxrbenchError
from cxrbench.workers.ranks import rank_of


@pytest.mark.parametrize(
    ("environment", "workers", "wanted"),
    [
        ({}, None, None),
        ({}, 4, None),
        ({"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "8", "SLURM_ARRAY_TASK_MIN": "0"}, None, (3, 8, None)),
        ({"SLURM_ARRAY_TASK_ID": "13", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "1",
          "SLURM_ARRAY_TASK_STEP": "4"}, None, (3, 4, None)),
        # A batch script without srun: one process, whatever the job asked for.
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, None, None),
        ({"SLURM_PROCID": "5", "SLURM_NTASKS": "8", "SLURM_STEP_ID": "0", "SLURM_LOCALID": "1"}, None, (5, 8, 1)),
        ({"SLURM_PROCID": "1", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_LOCALID": "1",
          "SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_COUNT": "3"}, None, (5, 6, 1)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "1", "SLURM_STEP_ID": "0"}, None, None),
        ({"RANK": "2", "WORLD_SIZE": "4", "LOCAL_RANK": "0"}, None, (2, 4, 0)),
        ({"RANK": "2"}, None, None),
        ({"JOB_COMPLETION_INDEX": "2"}, 5, (2, 5, None)),
        ({"JOB_COMPLETION_INDEX": "2", "WORLD_SIZE": "3"}, None, (2, 3, None)),
    ],
)  # fmt: skip
def test_the_environment_says_which_share(environment, workers, wanted):
    found = rank_of(environment, workers)
    assert (found and (found.rank, found.world, found.local)) == wanted


@pytest.mark.parametrize(
    ("environment", "workers", "said"),
    [
        ({"JOB_COMPLETION_INDEX": "2"}, None, "not of how many"),
        ({"RANK": "0", "WORLD_SIZE": "4"}, 2, "--workers 2"),
        ({"RANK": "4", "WORLD_SIZE": "4"}, None, "no rank 4 among 4"),
        ({"RANK": "x", "WORLD_SIZE": "4"}, None, "no number"),
        ({"SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_COUNT": "2", "SLURM_ARRAY_TASK_MIN": "1",
          "SLURM_ARRAY_TASK_STEP": "3"}, None, "evenly spaced"),
    ],
)  # fmt: skip
def test_what_is_not_certain_is_refused(environment, workers, said):
    with pytest.raises(CxrbenchError, match=said) as caught:
        rank_of(environment, workers)
    assert "--launcher none" in caught.value.fix


@pytest.mark.parametrize(
    ("launcher", "workers", "address", "said"),
    [
        ("none", 3, None, "--workers 3, but --launcher none"),
        ("auto", 2, "auto", "an address of a Ray cluster"),
        ("ray", None, None, "how many workers"),
        ("slurm", None, None, "no launcher 'slurm'"),
    ],
)
def test_flags_that_contradict_each_other_are_refused(launcher, workers, address, said):
    with pytest.raises(CxrbenchError, match=said) as caught:
        way_of(launcher, workers, None, address)
    assert caught.value.fix


def test_one_worker_is_this_process():
    assert way_of("none", 1, None, None).kind == "alone"
    assert way_of("ray", 2, None, "local").address == "local"

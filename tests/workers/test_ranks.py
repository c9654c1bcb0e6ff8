"""What schedulers put into the environment becomes a rank, or none, or a question; never a wrong share."""

import pytest

from cxrbench.cli import launching
from cxrbench.cli.launching import run_words, way_of
from cxrbench.errors import CxrbenchError
from cxrbench.workers.ranks import rank_of

STEP = {"SLURM_PROCID": "1", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_LOCALID": "1"}


def torchrun(rank, world, *, nodes):
    """What torchrun gives the second of its processes on a node."""
    return {"TORCHELASTIC_RUN_ID": "none", "RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": "1",
            "GROUP_WORLD_SIZE": str(nodes)}  # fmt: skip


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
        # One of one divides nothing: `srun -n 1` and `--array=2` leave --workers to the command line.
        ({"SLURM_PROCID": "0", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "1"}, 2, None),
        ({"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_COUNT": "1", "SLURM_ARRAY_TASK_MIN": "2",
          "SLURM_ARRAY_TASK_MAX": "2", "SLURM_ARRAY_TASK_STEP": "1"}, 2, None),
        # The shell that `salloc` opens on a node is a step of one task, whatever the job asked for.
        ({"SLURM_PROCID": "0", "SLURM_STEP_ID": "4294967290", "SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "3"},
         None, None),
        ({"RANK": "2", "WORLD_SIZE": "4", "LOCAL_RANK": "0"}, None, (2, 4, 0)),
        ({"RANK": "2"}, None, None),
        # torchrun within `srun`: one for all nodes of the step, or one for each task; and within an array.
        ({**STEP, **torchrun(5, 6, nodes=2)}, None, (5, 6, 1)),
        ({**STEP, **torchrun(1, 3, nodes=1)}, None, (4, 6, 1)),
        ({"SLURM_PROCID": "0", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "1", **torchrun(2, 3, nodes=1)}, None,
         (2, 3, 1)),
        ({"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_COUNT": "2", "SLURM_PROCID": "0", **torchrun(1, 3, nodes=1)},
         None, (4, 6, 1)),
        ({"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_COUNT": "2", **STEP, **torchrun(3, 4, nodes=2)}, None,
         (7, 8, 1)),
        # RANK that a script exports before `srun` is the same for all tasks; within one task it may divide.
        ({**STEP, "RANK": "0", "WORLD_SIZE": "2"}, None, (1, 2, 1)),
        ({"SLURM_PROCID": "0", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "1", "RANK": "1", "WORLD_SIZE": "2"}, None,
         (1, 2, None)),
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
          "SLURM_ARRAY_TASK_STEP": "3"}, None, "is a list"),
        *(({"SLURM_ARRAY_TASK_ID": number, "SLURM_ARRAY_TASK_COUNT": "3", "SLURM_ARRAY_TASK_MIN": "1",
            "SLURM_ARRAY_TASK_MAX": "6", "SLURM_ARRAY_TASK_STEP": "1"}, None, r"a list \(3 numbers from 1 to 6\)")
          for number in ("1", "3", "6")),
        ({"SLURM_PROCID": "0", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "3"}, 2, "--workers 2, but"),
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


def test_of_ranks_that_end_at_the_same_moment_one_scores(tmp_path, monkeypatch, capsys):
    out = tmp_path / "run"
    words = ["run", "--model", "always-normal", "--task", "demo-findings", "--limit", "8", "--batch-size", "4",
             "--metrics", "length", "--replicates", "0", "--out", str(out)]  # fmt: skip
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    run_words(words)
    answer = launching.answer

    def while_the_other_scores(way, work):
        answered = answer(way, work)
        (out / "summary.json").write_text("{}")
        return answered

    monkeypatch.setattr(launching, "answer", while_the_other_scores)
    monkeypatch.setenv("RANK", "0")
    run_words(words)
    assert "note: another worker scores this run" in capsys.readouterr().err
    assert (out / "summary.json").read_text() == "{}"

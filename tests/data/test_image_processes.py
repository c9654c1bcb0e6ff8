"""Images read in processes: the same pixels, the same failures, and nothing left behind."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from cxrbench.data import image_processes
from cxrbench.data.image_processes import ImageProcesses, reader
from cxrbench.data.images import ImageFailure, read_grey
from cxrbench.errors import CxrbenchError, Exit


@pytest.fixture
def processes():
    made = ImageProcesses(2)
    yield made
    made.close()


def numbers(read: ImageProcesses) -> list[int]:
    return [child._process.pid for child in read._children]


def test_pixels_and_failures_are_those_of_this_process(processes, tmp_path):
    file, broken = tmp_path / "a.png", tmp_path / "b.png"
    Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30) * 100).save(file)
    broken.write_bytes(file.read_bytes()[:60])
    drawn = next(path for path in _drawn_paths())
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(processes, [str(file), drawn] * 3))
    for path, pixels in zip([str(file), drawn] * 3, made, strict=True):
        assert pixels.dtype == np.uint8
        assert np.array_equal(pixels, read_grey(path))
    for path in (str(broken), str(tmp_path / "none.png")):
        with pytest.raises(ImageFailure) as here:
            read_grey(path)
        with pytest.raises(ImageFailure) as there:
            processes(path)
        assert (there.value.outcome, there.value.detail) == (here.value.outcome, here.value.detail)
    assert len(numbers(processes)) == 2  # four threads, two processes


def _drawn_paths():
    from cxrbench.config import load_config
    from cxrbench.data.load import TaskData
    from cxrbench.spec import find_task

    for sample in TaskData.find(find_task("demo-findings"), load_config(None)).samples.samples:
        yield from (image.path for image in sample.images)


def test_a_process_that_died_is_an_error_with_advice(processes, tmp_path):
    file = tmp_path / "a.png"
    Image.new("L", (4, 4)).save(file)
    processes(str(file))
    os.kill(numbers(processes)[0], signal.SIGKILL)
    with pytest.raises(CxrbenchError, match="a process that reads images died") as error:
        processes(str(file))
    assert error.value.code == Exit.INFRASTRUCTURE


def test_closing_ends_them_and_the_next_image_starts_another(processes, tmp_path):
    file = tmp_path / "a.png"
    Image.new("L", (4, 4), 7).save(file)
    processes.start()
    before = numbers(processes)
    assert len(before) == 2
    processes.close()
    for number in before:
        with pytest.raises(ProcessLookupError):
            os.kill(number, 0)
    assert processes(str(file)).tolist() == [[7] * 4] * 4


def test_a_child_of_another_kind_reads_for_itself(processes):
    assert pickle.loads(pickle.dumps(processes)) is read_grey


def test_one_processor_is_the_models_own(monkeypatch):
    for processors, count in ((2, 1), (3, 2), (16, 4)):
        monkeypatch.setattr(image_processes.os, "cpu_count", lambda found=processors: found)
        assert reader(4).count == count
    monkeypatch.setattr(image_processes.os, "cpu_count", lambda: 1)
    assert reader(4) is read_grey


SCRIPT = """
import sys
from cxrbench.data.image_processes import ImageProcesses
print("main module")
print(ImageProcesses(1)(sys.argv[1]).shape)
"""


def test_a_script_without_a_guard_is_not_run_twice_and_leaves_no_process(tmp_path):
    file, script = tmp_path / "a.png", tmp_path / "script.py"
    Image.new("L", (4, 3)).save(file)
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script), str(file)], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines() == ["main module", "(3, 4)"]
    assert done.stderr == ""

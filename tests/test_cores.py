"""A container's CPU quota is heeded: by how many threads PyTorch has, and in what `doctor` says."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from streamtok.cores import count_cores, read_quotas

GROUPS = Path("/sys/fs/cgroup/cpu")


@pytest.mark.parametrize(
    ("own", "files", "quotas"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n"}, [1.5]),
        ("0::/\n", {"cpu.max": "max 100000\n"}, []),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "400000 200000", "cpu.max": "300000 100000"}, [2, 3]),
        ("0::/docker/elsewhere\n", {"cpu.max": "200000 100000\n"}, [2]),  # a path of the host, inside a container
        (
            "7:memory:/\n4:cpu,cpuacct:/a\n0::/\n",
            {
                "cpu/a/cpu.cfs_quota_us": "50000\n",
                "cpu/a/cpu.cfs_period_us": "100000\n",
                "cpu/cpu.cfs_quota_us": "-1\n",
            },
            [0.5],
        ),
        ("", {}, []),
    ],
)
def test_quotas_of_a_group_and_those_around_it(own, files, quotas, tmp_path):
    (tmp_path / "own").write_text(own)
    for name, text in files.items():
        path = tmp_path / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert list(read_quotas(str(tmp_path / "groups"), str(tmp_path / "own"))) == quotas


def test_there_is_a_core():
    assert 1 <= count_cores() <= (os.cpu_count() or 1)


@pytest.fixture
def one_core():
    """A control group that may use one core; only root can make it."""
    group = GROUPS / f"streamtok-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    try:
        (group / "cpu.cfs_quota_us").write_text("100000")
        yield group
    finally:
        group.rmdir()


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is one core in any case")
@pytest.mark.parametrize(("variables", "threads"), [({}, "1"), ({"OMP_NUM_THREADS": "2"}, "2")])
def test_pytorch_has_no_more_threads_than_the_quota_has_cores_unless_told(variables, threads, one_core):
    program = f"""
import os
open("{one_core}/tasks", "w").write(str(os.getpid()))
import streamtok, torch
print(torch.get_num_threads())
"""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"} | variables
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=200)
    assert done.stdout.split() == [threads], done.stderr

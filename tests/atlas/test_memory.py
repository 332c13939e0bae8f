from math import inf

import pytest

from apmae.atlas.memory import free_memory

GIB = 2**30


def system(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


INFO = {"proc/meminfo": "MemTotal:       16777216 kB\nMemAvailable:    8388608 kB\n"}
TWO = {**INFO, "proc/self/cgroup": "0::/user/mine\n"}
ONE = {**INFO, "proc/self/cgroup": "5:cpu,cpuacct:/\n4:memory:/mine\n0::/\n"}


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({}, inf),
        ({"proc/meminfo": "nothing of use\n"}, inf),
        (INFO, 8 * GIB),
        (TWO, 8 * GIB),
        (
            TWO | {"sys/fs/cgroup/user/mine/memory.max": "max\n", "sys/fs/cgroup/user/mine/memory.current": "5\n"},
            8 * GIB,
        ),
        (
            TWO
            | {
                "sys/fs/cgroup/user/mine/memory.max": f"{4 * GIB}\n",
                "sys/fs/cgroup/user/mine/memory.current": f"{3 * GIB}\n",
            },
            1 * GIB,
        ),
        (  # what was only read from files can be had back
            TWO
            | {
                "sys/fs/cgroup/user/mine/memory.max": f"{4 * GIB}\n",
                "sys/fs/cgroup/user/mine/memory.current": f"{3 * GIB}\n",
                "sys/fs/cgroup/user/mine/memory.stat": f"anon {GIB}\ninactive_file {2 * GIB}\n",
            },
            3 * GIB,
        ),
        (  # a group around it allows less
            TWO
            | {
                "sys/fs/cgroup/user/mine/memory.max": f"{4 * GIB}\n",
                "sys/fs/cgroup/user/mine/memory.current": "0\n",
                "sys/fs/cgroup/user/memory.max": f"{2 * GIB}\n",
                "sys/fs/cgroup/user/memory.current": f"{3 * GIB}\n",
            },
            0,
        ),
        (  # a container: the path is the host's, its own group is at the top
            TWO | {"sys/fs/cgroup/memory.max": f"{2 * GIB}\n", "sys/fs/cgroup/memory.current": f"{GIB}\n"},
            1 * GIB,
        ),
        (
            ONE
            | {
                "sys/fs/cgroup/memory/mine/memory.limit_in_bytes": f"{4 * GIB}\n",
                "sys/fs/cgroup/memory/mine/memory.usage_in_bytes": f"{3 * GIB}\n",
                "sys/fs/cgroup/memory/mine/memory.stat": f"inactive_file 1\ntotal_inactive_file {GIB}\n",
            },
            2 * GIB,
        ),
        (
            ONE
            | {
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{3 * GIB}\n",
            },
            8 * GIB,
        ),
    ],
)
def test_free_is_what_the_system_and_every_group_leave(tmp_path, files, free):
    assert free_memory(system(tmp_path, files)) == free


def test_this_machine_has_some():
    assert free_memory() > 1e6

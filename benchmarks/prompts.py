"""How long does it take to draw one prompt a file and task from many source files?

    python benchmarks/prompts.py SOURCE... [--language java]

Prints the files, the prompts of each task, what was rejected, the time of the wall and of the processor (this process
and the parsers), and the resident memory of all of them after the first tenth of the files, after all (it should not
grow with their number) and at its peak, looked at after every hundredth file. Linux only.
"""

import argparse
import os
import time
from collections import Counter
from pathlib import Path

from apmae.config import PromptsConfig
from apmae.corpus.sources import list_sources
from apmae.prompts.languages import language_of
from apmae.prompts.sampling import candidates


def processes() -> list[Path]:
    """Folders in ``/proc`` of this process, then of those that it started and theirs."""
    found = [Path(f"/proc/{os.getpid()}")]
    for folder in found:  # it grows on the way
        found += [Path("/proc") / child for child in (folder / f"task/{folder.name}/children").read_text().split()]
    return found


def resident() -> list[float]:
    """Proportional resident set of each process, MB."""
    lines = [line for folder in processes() for line in (folder / "smaps_rollup").read_text().splitlines()]
    return [int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("Pss:")]


def processor() -> list[float]:
    """Processor time of each process, s."""
    fields = [(folder / "stat").read_text().rpartition(")")[2].split() for folder in processes()]
    return [(int(field[11]) + int(field[12])) / os.sysconf("SC_CLK_TCK") for field in fields]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+")
    parser.add_argument("--language", default="java")
    arguments = parser.parse_args()
    wall = time.perf_counter()
    files = list_sources(arguments.sources, suffixes=language_of(arguments.language).suffixes)
    config = PromptsConfig(language=arguments.language)
    tasks: Counter[str] = Counter()
    rejected: Counter[str] = Counter()
    seen: set[str] = set()
    last, early, peak = "", 0.0, 0.0
    drawn = candidates(files, config, rejected=rejected)
    for prompt in drawn:
        if prompt.path != last:
            if prompt.path in seen:  # the second round
                break
            seen.add(prompt.path)
            last = prompt.path
            if len(seen) % 100 == 0:
                peak = max(peak, sum(resident()))
            if len(seen) == len(files) // 10:
                early = sum(resident())
        tasks[prompt.task] += 1
    wall = time.perf_counter() - wall
    sizes, times = resident(), processor()
    print(f"{len(files)} files, {sum(file.size for file in files) / 1e6:.0f} MB, {len(seen)} with a prompt")
    print(f"{sum(tasks.values())} prompts: " + ", ".join(f"{task} {count}" for task, count in tasks.items()))
    print("rejected: " + (", ".join(f"{reason} {count}" for reason, count in sorted(rejected.items())) or "nothing"))
    print(
        f"{wall:.1f} s, {sum(times):.1f} s of processors ({times[0]:.1f} outside the parsers), "
        f"{sum(times) / max(sum(tasks.values()), 1) * 1e3:.2f} ms a prompt"
    )
    print(
        f"{early:.0f} MB after a tenth of the files, {sum(sizes):.0f} MB after all "
        f"({sizes[0]:.0f} outside the parsers), {max(peak, sum(sizes)):.0f} MB at most"
    )


if __name__ == "__main__":
    main()

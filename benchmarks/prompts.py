"""How long does it take to draw one prompt a file and task from many source files?

    python benchmarks/prompts.py SOURCE... [--language java]

Prints the files, the prompts of each task, what was rejected, the time of the process and of the wall, and the resident
memory after the first tenth of the files, after all (it should not grow with their number) and at its peak. Linux only.
"""

import argparse
import resource
import time
from collections import Counter
from pathlib import Path

from apmae.config import PromptsConfig
from apmae.corpus.sources import list_sources
from apmae.prompts.languages import language_of
from apmae.prompts.sampling import candidates


def resident() -> float:
    """Resident set of this process, MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+")
    parser.add_argument("--language", default="java")
    arguments = parser.parse_args()
    wall, cpu = time.perf_counter(), time.process_time()
    files = list_sources(arguments.sources, suffixes=language_of(arguments.language).suffixes)
    config = PromptsConfig(language=arguments.language)
    tasks: Counter[str] = Counter()
    rejected: Counter[str] = Counter()
    seen: set[str] = set()
    last, early = "", 0.0
    for prompt in candidates(files, config, rejected=rejected):
        if prompt.path != last:
            if prompt.path in seen:  # the second round
                break
            seen.add(prompt.path)
            last = prompt.path
            if len(seen) == len(files) // 10:
                early = resident()
        tasks[prompt.task] += 1
    late = resident()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"{len(files)} files, {sum(file.size for file in files) / 1e6:.0f} MB, {len(seen)} with a prompt")
    print(f"{sum(tasks.values())} prompts: " + ", ".join(f"{task} {count}" for task, count in tasks.items()))
    print("rejected: " + (", ".join(f"{reason} {count}" for reason, count in sorted(rejected.items())) or "nothing"))
    print(f"{wall:.1f} s, {cpu:.1f} s of the processor, {cpu / max(sum(tasks.values()), 1) * 1e3:.2f} ms a prompt")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    print(f"{early:.0f} MB after a tenth of the files, {late:.0f} MB after all, {peak:.0f} MB at most")


if __name__ == "__main__":
    main()

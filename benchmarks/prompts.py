"""How long does it take to draw one prompt per file and task from many source files?

    python benchmarks/prompts.py SOURCE... [--language java]
    python benchmarks/prompts.py SOURCE... --lm bundled --count 960

Prints the files, the prompts per task, what was rejected, wall time and processor time (of this process and the
parsers), and their resident memory after the first tenth of the files, after all of them (it should not grow with the
number of files) and at its peak, which is read after every hundredth file. Linux only.

With ``--lm``, prints how long it takes to build the prompts and windows of that many candidates, how long the model's
forward takes on them, in turn in one process, and how long both take when ``draw_prompts`` overlaps them. torch has one
thread.
"""

import argparse
import os
import time
from collections import Counter
from itertools import islice
from pathlib import Path

from apmae.config import PromptsConfig, tasks_of
from apmae.corpus.parse import parse_source
from apmae.corpus.source import list_sources
from apmae.prompts.draw import draw_prompts
from apmae.prompts.languages import language_of
from apmae.prompts.sampling import candidates


def processes() -> list[Path]:
    """Folders in ``/proc`` of this process and of all its descendants."""
    found = [Path(f"/proc/{os.getpid()}")]
    for folder in found:  # it grows during the loop
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


def against_forward(sources: list[str], language: str, lm_name: str, count: int) -> None:
    import torch

    from apmae import bundled
    from apmae.lm.load import load_lm
    from apmae.lm.outcome import AskLM, answer, window_of

    torch.set_num_threads(1)
    lm = load_lm(bundled.language_model() if lm_name == "bundled" else lm_name)
    files = list_sources(map(parse_source, sources), suffixes=language_of(language).suffixes)
    settings = {"language": language, "per_task": count // len(tasks_of(language))}
    config = PromptsConfig.model_validate(settings)
    drawn = candidates(files, config, tokenizer=lm.backend_tokenizer, rejected=Counter())
    next(drawn)  # the parsers start
    build = forward = 0.0
    for _ in range(count // 16):
        start = time.perf_counter()
        windows = [window_of(lm, prompt, config.length) for prompt in islice(drawn, 16)]
        built = time.perf_counter()
        answer(lm, windows, spans=True)
        build, forward = build + built - start, forward + time.perf_counter() - built
    start = time.perf_counter()
    prompts, counts = draw_prompts(AskLM(lm), files, config, rejected=Counter())
    both = time.perf_counter() - start
    asked = sum(counts["candidates"].values())
    print(f"{count} candidates: {1e3 * build / count:.2f} ms to build, {1e3 * forward / count:.2f} ms of forward each")
    print(f"the forward takes {forward / build:.1f} times as long")
    print(f"overlapped: {1e3 * both / asked:.2f} ms each over {asked} ({len(prompts)} kept)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+")
    parser.add_argument("--language", default="java")
    parser.add_argument("--lm", help="a model, or 'bundled'")
    parser.add_argument("--count", type=int, default=960, help="with --lm: candidates")
    arguments = parser.parse_args()
    if arguments.lm:
        against_forward(arguments.sources, arguments.language, arguments.lm, arguments.count)
        return
    wall = time.perf_counter()
    files = list_sources(map(parse_source, arguments.sources), suffixes=language_of(arguments.language).suffixes)
    config = PromptsConfig.model_validate({"language": arguments.language})
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
        f"{sum(times) / max(sum(tasks.values()), 1) * 1e3:.2f} ms per prompt"
    )
    print(
        f"{early:.0f} MB after a tenth of the files, {sum(sizes):.0f} MB after all "
        f"({sizes[0]:.0f} outside the parsers), {max(peak, sum(sizes)):.0f} MB at most"
    )


if __name__ == "__main__":
    main()

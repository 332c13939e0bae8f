"""When does a model's answer count as correct, and is the question fair? Borders of the span against rules of outcome.

    python experiments/outcomes.py MODEL [SOURCE ...] [--language java] [--per-task 20] [--seed 0] [--infill none]

Prints per task how many prompts are correct by each rule: if the prefix ends where it was cut, and if its last blanks
go with the completion as the tokenizer joins them (``prompts.fim.joined``). "text, not token" counts prompts that only
the rule on text calls correct; "longer than a token" those whose first token alone says too little. The null judges
each answer against the completion of another prompt of its task: how often a rule calls an unrelated answer correct.
"""

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from apmae.config import PromptsConfig
from apmae.corpus.parse import parse_source
from apmae.corpus.source import list_sources
from apmae.lm.language_model import LM
from apmae.lm.load import load_lm
from apmae.lm.outcome import answer, window_of
from apmae.prompts.draw import build_prompts
from apmae.prompts.fim import Window
from apmae.prompts.languages import language_of
from apmae.prompts.prompt import Prompt

COUNTS = (
    *("token", "text", "exact", "text, not token", "token, not text", "longer than a token"),
    *("null: token", "null: text"),
)


def as_cut(lm: LM, prompt: Prompt, length: int) -> Window:
    """The window whose prefix ends where the span begins, blanks before it included."""
    encode = partial(lm.backend_tokenizer.encode, add_special_tokens=False)
    bos = [] if lm.bos is None else [lm.bos]
    return Window(
        ids=(*bos, *encode(prompt.prefix).ids[len(bos) - length :]),
        completion=tuple(encode(prompt.completion).ids),
        text=prompt.completion,
        tokenizer=lm.backend_tokenizer,
    )


def unrelated(prompts: Sequence[Prompt], windows: Sequence[Window]) -> list[Window]:
    """The windows with the completion of the next prompt of the same task instead of their own."""
    places: dict[str, list[int]] = {}
    for place, prompt in enumerate(prompts):
        places.setdefault(prompt.task, []).append(place)
    following = {place: own[(at + 1) % len(own)] for own in places.values() for at, place in enumerate(own)}
    others = [windows[following[place]] for place in range(len(windows))]
    return [
        replace(window, completion=other.completion, text=other.text)
        for window, other in zip(windows, others, strict=True)
    ]


def counted(lm: LM, windows: Sequence[Window], others: Sequence[Window]) -> Iterator[Counter[str]]:
    """What is counted of each prompt."""
    for start in range(0, len(windows), 8):
        answers = answer(lm, windows[start : start + 8], spans=True)
        null = answer(lm, others[start : start + 8], spans=True)
        for own, other in zip(answers, null, strict=True):
            right = own.text_correct and own.token_correct
            tokens = len(lm.backend_tokenizer.encode(own.predicted, add_special_tokens=False).ids)
            yield Counter(
                {
                    "prompts": 1,
                    "token": own.token_correct,
                    "text": own.text_correct,
                    "exact": bool(own.exact),
                    "text, not token": own.text_correct and not own.token_correct,
                    "token, not text": own.token_correct and not own.text_correct,
                    "longer than a token": right and tokens > 1,
                    "null: token": other.token_correct,
                    "null: text": other.text_correct,
                }
            )


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("sources", nargs="*", default=["bundled"])
    parser.add_argument("--language", default="java")
    parser.add_argument("--per-task", type=int, default=20)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--infill", default="auto")
    given = parser.parse_args()
    lm = load_lm(given.model, infill=given.infill)
    config = PromptsConfig(language=given.language, per_task=given.per_task, seed=given.seed, length=given.length)
    suffixes = language_of(config.language).suffixes
    files = list_sources([parse_source(source) for source in given.sources], suffixes=suffixes)
    prompts, _ = build_prompts(files, config, tokenizer=lm.backend_tokenizer)
    borders = {"joined": window_of} if lm.sentinels else {"as cut": as_cut, "joined": window_of}
    found = {border: {task: Counter() for task in (*config.tasks, "all")} for border in borders}
    for border, cut in borders.items():
        windows = [cut(lm, prompt, config.length) for prompt in prompts]
        for prompt, row in zip(prompts, counted(lm, windows, unrelated(prompts, windows)), strict=True):
            found[border][prompt.task] += row
            found[border]["all"] += row
    for border, tasks in found.items():
        print(f"\n{border}: {'task':<22}{'prompts':>9}" + "".join(f"{name:>20}" for name in COUNTS))
        for task, row in tasks.items():
            print(
                f"{'':{len(border) + 2}}{task:<22}{row['prompts']:>9}" + "".join(f"{row[name]:>20}" for name in COUNTS)
            )


if __name__ == "__main__":
    main()

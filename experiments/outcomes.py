"""When does a model's answer count as correct, and is the question fair? Borders of the span against rules of outcome.

    python experiments/outcomes.py MODEL [SOURCE ...] [--language java] [--per-task 20] [--seed 0] [--infill none]

Prints per task how many prompts are correct by each rule: if the prefix ends where it was cut, and if its last blanks
go with the completion as the tokenizer joins them (``prompts.fim.joined``). "text, not token" counts prompts that only
the rule on text calls correct; "longer than a token" those whose first token alone says too little.
"""

import argparse
from collections import Counter
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

COUNTS = ("token", "text", "exact", "text, not token", "token, not text", "longer than a token")


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
    for start in range(0, len(prompts), 8):
        batch = prompts[start : start + 8]
        for border, cut in borders.items():
            answers = answer(lm, [cut(lm, prompt, config.length) for prompt in batch], spans=True)
            for prompt, reply in zip(batch, answers, strict=True):
                row = Counter(
                    {
                        "prompts": 1,
                        "token": reply.token_correct,
                        "text": reply.text_correct,
                        "exact": bool(reply.exact),
                        "text, not token": reply.text_correct and not reply.token_correct,
                        "token, not text": reply.token_correct and not reply.text_correct,
                        "longer than a token": reply.token_correct
                        and reply.text_correct
                        and len(lm.backend_tokenizer.encode(reply.predicted, add_special_tokens=False).ids) > 1,
                    }
                )
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

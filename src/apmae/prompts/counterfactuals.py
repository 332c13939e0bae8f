"""Counterfactuals of source code, of which the completion depends on one thing that is changed. Torch-free.

*Copied identifier*: the completion is an identifier that the text before it has already; in the counterfactual all its
copies there are another identifier of the same files, so that the completion is that one. *Closing bracket*: the
bracket that the completion closes is one of another type, so that the completion closes that one. The rest of the text
stays as it is; a changed bracket may make it ill-formed.

What a model does not do cannot be patched: pairs are kept only where the right completion is ahead of the wrong one
after the prompt, and by more than a logit less ahead after the counterfactual. So a set says how a model does the task
where it does it, not how often.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import islice

import numpy as np

from apmae.config import CircuitsConfig, PromptsConfig, Task
from apmae.corpus.source import SourceHandle
from apmae.errors import SourceError
from apmae.progress import Advance
from apmae.prompts.draw import Ask
from apmae.prompts.fim import Window
from apmae.prompts.pairs import Pair, pair_of
from apmae.prompts.prompt import Prompt
from apmae.prompts.sampling import candidates
from apmae.seeding import generator

LEAST_DROP = 1.0
"""Logits by which the right completion is less ahead after the counterfactual, at least."""
_WIDTH = 8
"""Candidates asked about at once, in four windows each."""
_PATIENCE = 40
"""Candidates tried per pair wanted before giving up."""
_POOL = 400
"""First candidates whose identifiers may replace others; however many pairs are wanted, so that more change none."""
_TRIES = 10
"""Replacements tried for one candidate."""
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z_0-9]{2,}")
_BRACKETS = {")": "(", "]": "[", "}": "{"}
_QUOTED = re.compile(r"[\"'`]|//|/\*|\*/")
_COMMENTED = re.compile(r"//|#|/\*|^\s*\*")
_TASKS: dict[str, Task] = {"copied_identifier": "identifier", "closing_bracket": "closing_bracket"}
"""The task whose spans are completed."""


def code_pairs(
    name: str,
    ask: Ask,
    files: Sequence[SourceHandle],
    config: CircuitsConfig,
    *,
    rejected: Counter[str],
    advance: Advance | None = None,
) -> list[Prompt]:
    """Prompts from source files, each with its counterfactual, that the model tells apart; in the order drawn.

    They have no suffix, and the file's path, so that intervals are over files.

    Args:
        name: one of ``config.CodeCircuit``.
        ask: the model; a forward of four windows decides about each candidate.
        files: where spans are taken from.
        config: language, split, how many, window, seed.
        rejected: counts what was not used, by reason.
        advance: called with the number of answers.

    Raises:
        SourceError: if there is not one pair.
    """
    settings = PromptsConfig(
        language=config.language,
        tasks=(_TASKS[name],),
        per_task=config.per_task,
        length=config.length,
        split=config.split,
        seed=config.seed,
    )
    window = partial(_window, ask, config.length)
    kept: list[Prompt] = []
    asked = 0
    with closing(candidates(files, settings, tokenizer=ask.tokenizer, rejected=rejected)) as drawn:
        drafts = _drafts(name, drawn, window, config.seed, rejected)
        while len(kept) < config.per_task and asked < _PATIENCE * config.per_task:
            batch = list(islice(drafts, _WIDTH))
            if not batch:
                break
            asked += len(batch)
            for pair, (clean, other) in zip(batch, _differences(ask, batch), strict=True):
                if clean <= 0:
                    rejected["not_ahead"] += 1
                elif clean - other <= LEAST_DROP:
                    rejected["no_drop"] += 1
                elif len(kept) < config.per_task:
                    kept.append(pair.prompt)
            if advance:
                advance(4 * len(batch), note=f"{name}: {len(kept)} of {config.per_task}")
    if not kept:
        why = ", ".join(f"{reason} {count}" for reason, count in sorted((+rejected).items()))
        raise SourceError(
            f"expected pairs of circuit:{name} from {len(files)} files, found none ({why or 'no spans'}); give more "
            "files, or a model that knows their language"
        )
    return kept


def _drafts(
    name: str, drawn: Iterator[Prompt], window: "partial[Window]", seed: int, rejected: Counter[str]
) -> Iterator[Pair]:
    """Candidates with a counterfactual of as many tokens."""
    pool: list[str] = []
    first: list[Prompt] = []
    if name == "copied_identifier":
        first = list(islice(drawn, _POOL))
        pool = sorted({prompt.completion for prompt in first if _IDENTIFIER.fullmatch(prompt.completion)})
    for prompt in _chained(first, drawn):
        plain = replace(prompt, suffix=None, task=name, id=_identity(name, prompt))
        draw = generator(seed, "counterfactual", name, prompt.id)
        changes = _copies(plain, pool, draw) if name == "copied_identifier" else _brackets(plain, draw)
        reason = "no_change"
        for prefix, wrong in islice(changes, _TRIES):
            found = pair_of(window, replace(plain, counterfactual=prefix, wrong=(wrong,)))
            if isinstance(found, Pair) and len(found.clean.completion) == 1:
                yield found
                break
            reason = found if isinstance(found, str) else "several_tokens"
        else:
            rejected[reason] += 1


def _chained(first: Iterable[Prompt], rest: Iterable[Prompt]) -> Iterator[Prompt]:
    yield from first
    yield from rest


def _copies(prompt: Prompt, pool: Sequence[str], draw: np.random.Generator) -> Iterator[tuple[str, str]]:
    """All copies of the completion in the prefix replaced by another identifier: the new prefix, and that one."""
    own = prompt.completion
    if not _IDENTIFIER.fullmatch(own):
        return
    copies = _whole(own)
    if not copies.search(prompt.prefix):
        return
    order: list[int] = draw.permutation(len(pool)).tolist()
    for other in (pool[place] for place in order):
        alike = other[0].isupper() == own[0].isupper()
        if alike and other != own and not _whole(other).search(prompt.prefix):
            yield copies.sub(other, prompt.prefix), other


def _whole(identifier: str) -> re.Pattern[str]:
    """The identifier where it is no part of a longer one."""
    return re.compile(rf"(?<![\w$]){re.escape(identifier)}(?![\w$])")


def _brackets(prompt: Prompt, draw: np.random.Generator) -> Iterator[tuple[str, str]]:
    """The bracket that the completion closes replaced by one of another type: the new prefix, and what closes that."""
    opener = _opener(prompt.prefix, prompt.completion)
    if opener is None:
        return
    others = [closer for closer in _BRACKETS if closer != prompt.completion]
    for place in draw.permutation(len(others)):
        closer = others[place]
        yield prompt.prefix[:opener] + _BRACKETS[closer] + prompt.prefix[opener + 1 :], closer


def _opener(text: str, closer: str) -> int | None:
    """Where the bracket is that a closing one after the text would close.

    None if there is none, if brackets between do not match, and where a string or comment is between or around it: in
    those brackets stand for themselves.
    """
    if closer not in _BRACKETS:
        return None
    waiting = [closer]
    for place in range(len(text) - 1, -1, -1):
        char = text[place]
        if char in _BRACKETS:
            waiting.append(char)
        elif char in _BRACKETS.values():
            if _BRACKETS[waiting.pop()] != char:
                return None
            if not waiting:
                line = text[text.rfind("\n", 0, place) + 1 : place]
                return None if _QUOTED.search(text, place) or _COMMENTED.search(line) else place
    return None


def _differences(ask: Ask, pairs: Sequence[Pair]) -> list[tuple[float, float]]:
    """The logit of the right completion less that of the wrong one, after prompt and counterfactual."""
    windows = [
        replace(side, completion=(token,), accepted=())
        for pair in pairs
        for side in (pair.clean, pair.other)
        for token in (pair.right, pair.wrong)
    ]
    logs = [answer.log_probability for answer in ask(windows)]
    found = []
    for place in range(0, len(logs), 4):
        right, wrong, other_right, other_wrong = logs[place : place + 4]
        assert right is not None and wrong is not None and other_right is not None and other_wrong is not None
        found.append((right - wrong, other_right - other_wrong))
    return found


def _window(ask: Ask, length: int, prompt: Prompt) -> Window:
    return ask.window(prompt, length)


def _identity(name: str, prompt: Prompt) -> str:
    return hashlib.sha256(f"{name}\x1f{prompt.id}".encode()).hexdigest()[:16]

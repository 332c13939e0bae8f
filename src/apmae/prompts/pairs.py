"""A prompt and its counterfactual as a model sees them: the same tokens but for those that matter. Torch-free."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from apmae.prompts.fim import Window
from apmae.prompts.prompt import Prompt

REASONS = {
    "no_counterfactual": "have no counterfactual",
    "no_wrong": "have no wrong completion to compare the right one with",
    "length": "have a counterfactual of another number of tokens",
    "same": "have a counterfactual that is the same in the window",
    "answers": "have a right and a wrong completion that begin with the same token",
    "merges": "have completions that change the tokens before them",
}
"""Why a prompt gives no pair; each is the end of "N prompts ..."."""


class Pair(NamedTuple):
    """One prompt with its counterfactual."""

    prompt: Prompt
    clean: Window
    other: Window
    """What the model sees of the counterfactual: as many tokens."""
    right: int
    """Id of the first token of the completion."""
    wrong: int
    """Id of the first token of the first wrong completion."""

    @property
    def changed(self) -> list[int]:
        """Positions whose tokens differ, ascending; at least one."""
        tokens = enumerate(zip(self.clean.ids, self.other.ids, strict=True))
        return [place for place, (one, other) in tokens if one != other]

    @property
    def group(self) -> str:
        """What prompts that belong together share: their group, else their file, else nothing."""
        return self.prompt.group or self.prompt.path or self.prompt.id


def pair_of(window: Callable[[Prompt], Window], prompt: Prompt) -> Pair | str:
    """A prompt and its counterfactual as windows, or why there is no pair (a key of :data:`REASONS`).

    Args:
        window: what the model sees of a prompt.
        prompt: with a counterfactual, or not.
    """
    if prompt.counterfactual is None:
        return "no_counterfactual"
    if not prompt.wrong:
        return "no_wrong"
    clean, other = (window(replace(prompt, prefix=prefix)) for prefix in (prompt.prefix, prompt.counterfactual))
    if not _aligned(clean.ids, other.ids):
        return "length"
    if clean.ids == other.ids:
        return "same"
    instead = window(replace(prompt, completion=prompt.wrong[0]))
    if instead.ids != clean.ids or other.completion != clean.completion:
        return "merges"
    if instead.expected == clean.expected:
        return "answers"
    return Pair(prompt, clean, other, clean.expected, instead.expected)


def _aligned(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether one becomes the other by replacing tokens in their places, with no shift that takes fewer edits.

    A window that was cut has as many tokens whatever the counterfactual's length: what is left of a longer replacement
    is then shifted, which the edit distance of Levenshtein (1966) shows.
    """
    if len(one) != len(other):
        return False
    ids = np.array(other)
    column = np.arange(len(ids) + 1)
    distance = column
    for token in one:
        kept = np.minimum(distance[:-1] + (ids != token), distance[1:] + 1)
        begun = np.concatenate([[distance[0] + 1], kept])
        distance = np.minimum.accumulate(begun - column) + column  # tokens of the other put in
    return int((np.array(one) != ids).sum()) <= int(distance[-1])

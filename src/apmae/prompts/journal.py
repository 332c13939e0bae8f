"""Asking a model with a journal: a resumed run does not ask again what was answered before. Torch-free."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from apmae.prompts.draw import Ask
from apmae.prompts.fim import Window
from apmae.prompts.prompt import Answer, Prompt

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class Journal(Protocol):
    """Keeps notes across a kill; a stage does (:class:`apmae.artifacts.Stage`)."""

    @property
    def notes(self) -> Mapping[str, Any]:
        """What was noted so far, by key."""
        ...

    def note(self, key: str, value: Any) -> None:
        """Keep a value that JSON can hold."""
        ...


@dataclass(frozen=True, slots=True)
class JournaledAsk:
    """Asks a model (:class:`Ask`), one batch at a time, and keeps each batch's answers in a journal.

    Answers are kept per batch, because an answer within a batch differs in its last digits from the same answer
    alone: this way a resumed run gives the same bytes.
    """

    ask: Ask
    journal: Journal

    @property
    def tokenizer(self) -> "Tokenizer":
        """The model's."""
        return self.ask.tokenizer

    @property
    def known(self) -> int:
        """Answers in the journal."""
        return sum(len(answers) for answers in self.journal.notes.values())

    def window(self, prompt: Prompt, length: int) -> Window:
        """What the model sees of a prompt."""
        return self.ask.window(prompt, length)

    def __call__(self, windows: Sequence[Window]) -> list[Answer]:
        """The model's answer to each, now or before."""
        asked = [[window.ids, window.completion, window.text, window.accepted] for window in windows]
        key = hashlib.sha256(json.dumps(asked).encode()).hexdigest()
        if key in self.journal.notes:
            return [Answer(*noted) for noted in self.journal.notes[key]]
        answers = self.ask(windows)
        self.journal.note(key, [list(answer) for answer in answers])
        return answers

"""Tasks, circuits, and how prompts are drawn."""

from typing import Any, Literal, Self, get_args

from pydantic import Field, model_validator

from apmae.config.base import Config

TASKS = (
    "closing_bracket",
    "eol",
    "boolean_literal",
    "string_literal",
    "numeric_literal",
    "identifier",
    "boolean_operator",
    "math_operator",
    "assignment_operator",
    "random",
)
"""The ten completion tasks of code, in the paper's order (paper section 5)."""

TEXT_TASKS = ("sentence_end", "number", "capitalised_name", "quote", "repeated_word", "random")
"""The completion tasks of plain text. Not in the paper."""

Task = Literal[
    "closing_bracket",
    "eol",
    "boolean_literal",
    "string_literal",
    "numeric_literal",
    "identifier",
    "boolean_operator",
    "math_operator",
    "assignment_operator",
    "random",
    "sentence_end",
    "number",
    "capitalised_name",
    "quote",
    "repeated_word",
]


Circuit = Literal["ioi", "greater_than", "docstring", "induction", "gendered_pronouns"]
"""The classic circuits that ``prompts/circuits.py`` makes prompts for."""

CodeCircuit = Literal["copied_identifier", "closing_bracket"]
"""Those that ``prompts/counterfactuals.py`` makes from source files."""

Language = Literal["java", "python", "cpp", "javascript", "typescript", "go", "rust", "text"]
"""What source files are written in: a programming language, or "text" for prose."""


def tasks_of(language: str) -> tuple[Task, ...]:
    """The tasks of a language."""
    return TEXT_TASKS if language == "text" else TASKS


class PromptsConfig(Config):
    """How prompts are drawn from source files."""

    language: Language = "java"
    """What the files are written in: a programming language, or "text" for prose."""

    tasks: tuple[Task, ...] = TASKS
    """The kinds of span to take out, by default all of the language (:func:`tasks_of`)."""

    per_task: int = Field(default=1000, ge=1)
    """Prompts per task (paper section 5: 1 000)."""

    outcome: Literal["any", "balanced", "correct"] = "any"
    """Which prompts to keep, by the language model's answers: half correct and half incorrect ("balanced", like the
    paper's atlas prompts), only correct ones ("correct", like its training prompts), or all ("any")."""

    length: int = Field(default=256, ge=8)
    """Tokens of the window, sentinels included."""

    per_file: int | None = Field(default=None, ge=1)
    """The most prompts per task from one file. By default one; more only when every file has given one."""

    similar: float = Field(default=0.8, gt=0, le=1)
    """A prompt is left out if its window shares this much with that of an earlier prompt of its task, for instance from
    a copy of the file or from a span nearby. At 1 only identical windows, with the span in the same place, are."""

    split: Literal["all", "train", "atlas", "held_out"] = "all"
    """Which files to draw from. Files are split by a hash of their path, and those of one repository stay together:
    three fifths to train an encoder on, a fifth to fit an atlas on, a fifth held out."""

    seed: int = 0
    """Decides which files and spans are drawn."""

    @model_validator(mode="before")
    @classmethod
    def _every_task(cls, values: Any) -> Any:
        if isinstance(values, dict) and "tasks" not in values and values.get("language") == "text":
            return values | {"tasks": TEXT_TASKS}
        return values

    @model_validator(mode="after")
    def _tasks_are_of_the_language(self) -> Self:
        known = tasks_of(self.language)
        foreign = [task for task in self.tasks if task not in known]
        if foreign:
            raise ValueError(
                f"language {self.language!r} has no task {', '.join(foreign)}: choose from {', '.join(known)}"
            )
        return self


class CircuitsConfig(Config):
    """How prompts of classic circuits are drawn (``docs/circuits.md``)."""

    circuits: tuple[Circuit | CodeCircuit, ...]
    """The sets, each at most once. Those of :data:`CodeCircuit` are drawn from source files."""

    per_task: int = Field(default=100, ge=1)
    """Prompts per set, each with its counterfactual."""

    length: int = Field(default=256, ge=8)
    """The most tokens in a prompt."""

    language: Language = "java"
    """What the source files are written in, if there are any."""

    split: Literal["all", "train", "atlas", "held_out"] = "all"
    """Which source files to draw from (``PromptsConfig.split``)."""

    seed: int = 0
    """Decides which templates and words, or files and spans, are drawn."""

    @property
    def from_code(self) -> tuple[str, ...]:
        """The sets that are drawn from source files."""
        return tuple(name for name in get_args(CodeCircuit) if name in self.circuits)

    @model_validator(mode="after")
    def _each_circuit_once(self) -> Self:
        if not self.circuits or len(set(self.circuits)) < len(self.circuits):
            raise ValueError(f"expected one or more circuits, each once, got {', '.join(self.circuits) or 'none'}")
        if self.from_code and self.language == "text":
            raise ValueError(f"circuits of code have no language 'text', got {self.from_code[0]}: give another")
        return self

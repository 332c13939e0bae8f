"""What is said of one completion: how likely it is correct, and whether to answer at a chosen risk."""

from typing import Any, NamedTuple

from rich.text import Text

from apmae.analyze.risk import CONFIDENCE, Answering
from apmae.report.console import open_console, print_point
from apmae.report.display import visible


class Said(NamedTuple):
    """What is said of the completion of one line."""

    model: str
    file: str
    line: int
    column: int
    """Where the completion begins, from 1."""
    task: str
    answer: str
    """The model's most probable token."""
    expected: str
    """What the file has there."""
    outcome: str
    """"correct" or "incorrect", by what the file has."""
    probability: float
    """Of correct."""
    max_probability: float
    """The model's own."""
    risk: float
    """Most of the answers that may be incorrect."""
    threshold: Answering | None
    """From which probability the answer is used; None: none keeps the risk."""
    lowest: Answering | None
    """The threshold with the lowest bound; None if nothing was measured."""
    prompts: int
    """Of the study."""
    measured_on: str
    """The model whose risk was measured."""
    measured: bool
    """Whether this is that model. If not, no risk is promised."""
    notes: tuple[str, ...]
    """What else to know, a sentence or two each."""

    @property
    def answers(self) -> bool:
        """Whether to use the answer at the chosen risk."""
        return self.measured and self.threshold is not None and self.probability >= self.threshold.threshold


def decision_of(said: Said) -> str:
    """Whether to answer, and why, in a sentence."""
    found = said.threshold
    if not said.measured:
        why = f"risk was measured on {said.measured_on}, so none can be promised for this model"
    elif found is not None:
        why = (
            f"{'at' if said.answers else 'below'} the threshold of {found.threshold:.2f}, from which at most "
            f"{said.risk:.0%} of answers are incorrect ({CONFIDENCE:.0%} confidence; {found.risk:.1%} were, of the "
            f"{found.coverage:.0%} of prompts that pass)"
        )
        why = why.replace("at the threshold", "at or above the threshold", 1)
    elif said.lowest is None:
        why = "nothing was measured of such prompts, so no risk can be promised"
    else:
        why = (
            f"no threshold keeps a risk of {said.risk:.0%} with the study's {said.prompts:,} prompts; the lowest that "
            f"can be promised is {said.lowest.bound:.0%}"
        )
    return f"{'Answer' if said.answers else 'Abstain'}: {why}."


def print_line(said: Said) -> None:
    """Print the answer, how likely it is correct, and whether to use it."""
    console = open_console()
    console.print(
        Text.assemble(
            "The model answers ",
            (visible(said.answer), "bold"),
            f" at column {said.column} ({said.task.replace('_', ' ')}). P(correct) ",
            (f"{said.probability:.2f}", "bold"),
            f"; the model's own probability is {said.max_probability:.2f}.",
        )
    )
    print_point(console, decision_of(said))
    for note in said.notes:
        print_point(console, note)
    print_point(console, f"The file has {visible(said.expected)}: {said.outcome}.")


def line_record(said: Said) -> dict[str, Any]:
    """The same as JSON holds it."""
    record = said._asdict()
    for name in ("threshold", "lowest"):
        record[name] = None if record[name] is None else record[name]._asdict()
    return {**record, "confidence": CONFIDENCE, "answers": said.answers, "decision": decision_of(said)}

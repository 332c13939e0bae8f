"""What is said of one completion: how likely it is correct, and whether to answer at a chosen risk."""

from typing import Any, NamedTuple

from rich.text import Text

from apmae.analyze.risk import CONFIDENCE, Answering
from apmae.report.console import open_console, print_point
from apmae.report.display import visible

FORMAT, VERSION = "apmae.prediction_line", 1
"""What the JSON says of itself."""
_WHOLE = 1e-9
"""How far a coverage of all may be off 1, as a sum of shares."""


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
        why = _kept(said, found)
    elif said.lowest is None:
        why = "nothing was measured of such prompts, so no risk can be promised"
    else:
        prompts = f"{said.prompts:,} prompt{'' if said.prompts == 1 else 's'}"
        why = f"no threshold keeps a risk of {_percent(said.risk)} with the study's {prompts}; "
        if said.lowest.bound >= 0.995:  # it would round to 100 %
            why += "no lower risk than 100% can be promised at all"
        else:
            why += f"the lowest that can be promised is {said.lowest.bound:.1%}, if {_share(said.lowest)} is answered"
    return f"{'Answer' if said.answers else 'Abstain'}: {why}."


def _kept(said: Said, found: Answering) -> str:
    """Where a threshold keeps the risk: on which side of it this answer is, and what was measured."""
    most = f"at most {_percent(said.risk)} of answers are incorrect ({CONFIDENCE:.0%} confidence"
    if found.coverage > 1 - _WHOLE:
        measured = f"{most}; {found.risk:.1%} were)"
        if said.answers:
            return f"even if nothing is abstained from, {measured}"
        return f"below {found.threshold:.2f}, the lowest of the study's prompts; from there on {measured}"
    side = "at or above" if said.answers else "below"
    return (
        f"{side} the threshold of {found.threshold:.2f}, from which {most}; {found.risk:.1%} were, of the "
        f"{_share(found)} of prompts that pass)"
    )


def _percent(risk: float) -> str:
    """A chosen risk as it was given, also below 1 %."""
    return f"{100 * risk:.3g}%"


def _share(one: Answering) -> str:
    """Coverage, never rounded to all or nothing."""
    if one.coverage > 1 - _WHOLE:
        return "all"
    return "less than 1%" if one.coverage < 0.01 else f"{min(one.coverage, 0.99):.0%}"


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
    about = {"format": FORMAT, "version": VERSION}
    return {**about, **record, "confidence": CONFIDENCE, "answers": said.answers, "decision": decision_of(said)}

"""One line of a file: will the model complete it right, and should its answer be used?"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from apmae.analyze.answers import Seen, prefix_of
from apmae.analyze.prediction import PREDICTOR
from apmae.analyze.predictor import Predictor
from apmae.analyze.risk import threshold_for
from apmae.analyze.saved_predictor import Origin, read_predictor
from apmae.artifacts import read_table, write_json
from apmae.config import LMConfig
from apmae.lm.declared import expect_answering
from apmae.lm.language_model import LM
from apmae.lm.load import load
from apmae.lm.outcome import answer, window_of
from apmae.prompts.fim import Window
from apmae.prompts.line import line_prompt, task_prompt
from apmae.prompts.prompt import Answer
from apmae.report.prediction import figure
from apmae.report.prediction_line import Said, line_record, print_line
from apmae.schema import PREDICTION_FILE
from apmae.study.layout import Layout


def predict_line(
    lm: LMConfig,
    file: Path,
    line: int,
    *,
    study: Path,
    column: int | None = None,
    task: str | None = None,
    risk: float = 0.1,
    json: Path | None = None,
) -> Said:
    """Ask a model for one completion, and say how likely it is correct by what a study knows of such answers.

    Args:
        lm: the language model.
        file: source file with the line.
        line: from 1.
        study: folder in which ``apmae predict`` has saved a predictor.
        column: where in the line, from 1; by default where the first span of a task begins in it, or with ``task`` at
            its first character that is not blank.
        task: of the span at the cursor; by default found by the language's grammar.
        risk: most of the answers that may be incorrect, in (0, 1).
        json: where to write what is said as JSON too.

    Raises:
        ArtifactError: if the study has no whole predictor.
        ConfigError: as :func:`apmae.engine.prediction_checks.expect_line`.
        ModelError: if the model cannot be loaded, or answers nothing.
        SourceError: as :func:`line_prompt`, or if no task is given and none is found.
    """
    folder = Layout(study).prediction
    predictor, origin = read_predictor(folder)
    prompt = task_prompt(line_prompt(file, line, column), task, onward=column is None)
    model = load(lm)
    expect_answering(model.answers, lm.source)
    window = window_of(model, prompt, min(origin.length, model.max_length or origin.length))
    (answered,) = answer(model, [window])  # the first token alone: what follows depends on what the file has
    (judged,) = answer(model, [window], spans=True)
    own = model.fingerprint == origin.fingerprint
    seen = _seen(predictor, model, window, answered, prompt.task)
    verdict = predictor.verdict(seen, counted=own)
    found = Said(
        model=lm.source,
        file=str(file),
        line=line,
        column=prompt.start - prompt.prefix.rfind("\n"),
        task=prompt.task,
        answer=answered.predicted,
        expected=prompt.completion,
        outcome=judged.outcome,
        probability=verdict.probability,
        max_probability=answered.max_probability,
        risk=risk,
        threshold=threshold_for(verdict.bounds, risk),
        lowest=min(verdict.bounds, key=lambda one: one.bound, default=None),
        prompts=origin.prompts,
        measured_on=origin.lm,
        measured=own,
        notes=tuple(_notes(folder, predictor, origin, model, prompt.task)),
    )
    if json:
        write_json(json, line_record(found))
    return found


def print_said(said: Said) -> None:
    """Print the answer, how likely it is correct, and whether to use it."""
    print_line(said)


def _seen(predictor: Predictor, model: LM, window: Window, answered: Answer, task: str) -> Seen:
    arrangement = model.sentinels or model.masks
    return Seen(
        task=np.array([predictor.task_of(task)]),
        max_probability=np.array([answered.max_probability]),
        margin=np.array([answered.margin]),
        entropy=np.array([answered.entropy]),
        predicted=(predictor.token_of(answered.predicted),),
        tokens=(window.tokens,),
        prefix=np.array([prefix_of(window.tokens, arrangement.template if arrangement else "none")]),
    )


def _notes(folder: Path, predictor: Predictor, origin: Origin, model: LM, task: str) -> Iterator[str]:
    """What does not carry over from the study to this line."""
    if model.fingerprint != origin.fingerprint:
        yield (
            f"The study asked {origin.lm}, this is {model.name}. Token statistics are left out, because tokens of "
            "another model do not carry over; what is left was fitted on the other model's probabilities."
        )
    if predictor.task_of(task) < 0:
        row = next(row for row in read_table(folder / PREDICTION_FILE).to_pylist() if row["features"] == PREDICTOR)
        measured = "how well that works was not measured"
        if row["transfer"] is not None:
            measured = f"with a task left out, AUROC within it was {figure(row, 'transfer', 2)}"
        yield (
            f"{task.replace('_', ' ')} is not one of the study's tasks ({', '.join(predictor.tasks)}): {measured}. "
            "Probability and threshold are of left-out tasks."
        )
    if predictor.natural is not None:
        yield (
            "The study's prompts were drawn half correct; P(correct) and risk are moved to the "
            f"{predictor.natural:.0%} that is correct among all that were asked."
        )
    arrangement = model.sentinels or model.masks
    asked = {
        "infill": (origin.infill, arrangement.template if arrangement else "none"),
        "dtype": (origin.dtype, str(model.model.dtype).removeprefix("torch.")),
        "outcome_rule": (origin.outcome_rule, model.config.outcome_rule),
    }
    if other := [f"{name} {theirs}, here {ours}" for name, (theirs, ours) in asked.items() if theirs != ours]:
        yield f"The study asked otherwise: {'; '.join(other)}."

"""How well outcomes are predicted without attention, on more prompts than a study has: no pattern is captured.

apmae prompts SOURCE --lm MODEL --set outcome=balanced --out prompts.parquet
python experiments/prediction.py prompts.parquet --lm MODEL [--infill auto] [--length 256]
"""

import argparse
from pathlib import Path

import pyarrow as pa

from apmae.analyze.answers import Drawn, answers_of
from apmae.analyze.prediction import forecast
from apmae.analyze.prediction_tables import judge
from apmae.artifacts import read_manifest
from apmae.config import LMConfig, PredictConfig
from apmae.engine.prompts import load_prompts
from apmae.lm.load import load
from apmae.lm.outcome import window_of
from apmae.report.prediction import Prediction, figure, models_of
from apmae.schema import ENCODED_PROMPTS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompts", type=Path)
    parser.add_argument("--lm", required=True)
    parser.add_argument("--infill", default="auto")
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    lm = load(LMConfig(source=asked.lm, infill=asked.infill))
    arrangement = lm.sentinels or lm.masks
    rows = []
    for number, prompt in enumerate(load_prompts(asked.prompts)):
        if prompt.answer is None:
            continue
        window = window_of(lm, prompt, asked.length)
        own = {"prompt": number, "tokens": list(window.tokens), "expected": window.text, **prompt.answer._asdict()}
        own |= {"id": prompt.id, "task": prompt.task, "path": prompt.path, "split": prompt.split}
        rows.append({**own, "outcome": prompt.answer.outcome})
    table = pa.Table.from_pylist(
        [{name: row.get(name) for name in ENCODED_PROMPTS.names} for row in rows], ENCODED_PROMPTS
    )
    config = PredictConfig(seed=asked.seed)
    answers = answers_of(table, arrangement.template if arrangement else "none", config.similar)
    counts = {"prompts": len(answers.prompt), "files": answers.files}
    print(f"{counts}, correct {answers.correct.mean():.3f}, groups {answers.groups}, left out {answers.left_out}")
    how = str(read_manifest(asked.prompts, "prompts").config.get("outcome"))
    made = judge(answers, forecast(answers, {}, config), Drawn(how, None), config)
    digits = Prediction(made.prediction, made.tasks, counts).digits
    for row in made.prediction.to_pylist():
        shown = [figure(row, name, digits) for name in ("auroc", "within_task", "transfer")]
        error = f"{row['calibration_error']:.3f} ({row['calibration_error_chance']:.3f})"
        print(f"{row['features']:22} {models_of(row):20} {'  '.join(shown)}  Brier {row['brier']:.3f}  error {error}")


if __name__ == "__main__":
    main()

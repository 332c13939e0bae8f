"""The evaluate stage: any number of encoders on the patterns of any number of language models (paper Table 3).

Each language model has an artifact of its own, so that another one costs only its own patterns. Tables and picture are
always made again.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from apmae import bundled
from apmae.artifacts import Stage, cut, fingerprint, missing, read_tables, run_shards
from apmae.atlas.kinds import measured_names
from apmae.config import EvaluateConfig, LMConfig
from apmae.encode import score_batch
from apmae.engine.checks import losses_folder, named_sources
from apmae.engine.prompts import load_prompts
from apmae.engine.stages import decisive, opened
from apmae.errors import SourceError
from apmae.lm.language_model import LM
from apmae.lm.stream import Captured, window_length
from apmae.model.mae import APMAE
from apmae.progress import progress
from apmae.prompts.prompt import Prompt
from apmae.report import terminal
from apmae.report.evaluation import Evaluation, evaluate, evaluation_counts, evaluation_files
from apmae.train.evaluate import evaluate_shard, pattern_sizes


def cross_evaluate(
    lms: Sequence[LM | LMConfig],
    encoders: Sequence[str],
    prompts_path: Path,
    out: Path,
    config: EvaluateConfig,
    *,
    overwrite: bool = False,
) -> Evaluation:
    """Every encoder on every language model's patterns.

    Args:
        lms: language models; those that are not loaded yet are loaded one after another.
        encoders: folders or hub ids of AP-MAEs, or "bundled".
        prompts_path: prompts, Parquet or JSONL.
        out: the evaluation's folder.
        config: heads, masks, shards.
        overwrite: replace losses made from something else.

    Raises:
        ConfigError: if there is no language model or encoder, or one is given twice.
        SourceError: if there are no prompts.
    """
    configs = [lm if isinstance(lm, LMConfig) else lm.config for lm in lms]
    names = list(named_sources([config.source for config in configs], "language models"))
    named = named_sources(encoders, "encoders")
    prompts = load_prompts(prompts_path)
    if not prompts:
        raise SourceError(f"expected prompts to evaluate on in {prompts_path}, found none; give another file")
    maes = {name: APMAE.from_pretrained(source) for name, source in named.items()}
    inputs = {f"encoder-{name}": mae.fingerprint for name, mae in maes.items()}
    inputs["prompts"] = fingerprint(prompts_path)
    folders = {name: losses_folder(out, name) for name in names}
    fingerprints = {}
    for name, lm in zip(names, lms, strict=True):
        fingerprints[name] = _losses(opened(lm), name, folders[name], maes, prompts, inputs, config, overwrite)
    own = _owners(maes, fingerprints)
    scalings = {name: mae.config.scaling for name, mae in maes.items()}
    in_train = Counter(prompt.split for prompt in prompts)["train"]
    notes = []
    if in_train:
        notes.append(
            f"{in_train} of {len(prompts)} prompts are of the split 'train', which an encoder may have been trained "
            "on: draw prompts with --set split=held_out."
        )
    return write_evaluation(out, folders, own, scalings, notes)


def print_evaluation(evaluation: Evaluation) -> None:
    """Print how good every encoder is on every language model's patterns (paper Table 3)."""
    terminal.print_evaluation(evaluation)


def write_evaluation(
    out: Path,
    lms: Mapping[str, Path],
    own: Mapping[str, str],
    scalings: Mapping[str, str],
    notes: Sequence[str] = (),
) -> Evaluation:
    """Write tables and picture of finished losses; earlier ones are replaced.

    Args:
        out: the evaluation's folder.
        lms: the folder of each language model's losses.
        own: encoder -> its language model, where it is known.
        scalings: encoder -> its scaling.
        notes: to print.

    Raises:
        ArtifactError: if losses are unfinished or damaged, or the files cannot be written.
    """
    losses = {lm: read_tables(folder, "losses", "losses") for lm, folder in lms.items()}
    evaluation = evaluate(losses, own, scalings, notes)
    files = evaluation_files(evaluation)
    inputs = {f"losses-{lm}": fingerprint(folder) for lm, folder in lms.items()}
    with Stage.open(out, "evaluate", {"own": dict(own)}, inputs, overwrite=True) as stage:
        stage.write_files(files)
        stage.finish(evaluation_counts(evaluation))
    return evaluation


def _losses(
    lm: LM,
    name: str,
    out: Path,
    maes: Mapping[str, APMAE],
    prompts: Sequence[Prompt],
    inputs: Mapping[str, str],
    config: EvaluateConfig,
    overwrite: bool,
) -> str:
    """All encoders on one language model's patterns: one artifact. Returns the model's fingerprint."""
    with Stage.open(
        out, "losses", decisive(config, lm), {"lm": lm.fingerprint, **inputs}, overwrite=overwrite
    ) as stage:
        if not stage.finished:
            for size in pattern_sizes(maes):
                window_length(lm, size, config.capture.context)  # refused before anything runs
            shards = cut(len(prompts), config.shard_prompts, ("losses",))
            rounds = len(pattern_sizes(maes))
            done = len(prompts) - sum(map(len, missing(stage, shards)))
            with progress(f"evaluate {name}", len(prompts) * rounds, done=done * rounds, unit="prompts") as advance:
                work = partial(
                    evaluate_shard,
                    lm=lm,
                    encoders={encoder: mae.to(lm.device) for encoder, mae in maes.items()},
                    prompts=prompts,
                    config=config,
                    root=stage.staging,
                    name=name,
                    measured=_measured,
                    advance=advance,
                )
                run_shards(stage, shards, work)
            stage.finish({"lm": name, "rows": stage.rows("losses"), "layers": lm.num_layers, "heads": lm.num_heads})
    return lm.fingerprint


def _measured(captured: Captured) -> list[str]:
    scores = score_batch(captured)
    return measured_names(scores.values, scores.key_kinds)


def _owners(maes: Mapping[str, APMAE], lms: Mapping[str, str]) -> dict[str, str]:
    """Encoder -> the language model that it was trained on, where that is known and one of these.

    An encoder's manifest says it; the bundled encoder belongs to the bundled language model. For an encoder without a
    manifest the order decides, if there are as many encoders as language models.

    Args:
        maes: encoders by name.
        lms: fingerprints of the language models by name.
    """
    names = {content: name for name, content in lms.items()}
    own = {}
    for place, (encoder, mae) in enumerate(maes.items()):
        if mae.source == "bundled":
            owner = names.get(fingerprint(bundled.language_model()))
        elif mae.origin is not None and mae.origin.manifest is not None:
            owner = names.get(mae.origin.manifest.get("inputs", {}).get("lm"))
        else:
            owner = list(lms)[place] if len(lms) == len(maes) else None
        if owner is not None:
            own[encoder] = owner
    return own

"""The train stage, in one process or in each of several that ``torchrun`` started: the first one writes."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from apmae.artifacts import Stage, fingerprint, replacing, write_table
from apmae.config import PromptsConfig, TrainConfig
from apmae.corpus.source import Source
from apmae.encode import reconstructions
from apmae.engine.prompts import load_prompts, make_prompts
from apmae.engine.settings import Training
from apmae.engine.stages import decisive
from apmae.lm.language_model import LM
from apmae.lm.load import load
from apmae.model.folder import CONFIG, WEIGHTS
from apmae.model.mae import APMAE
from apmae.patterns.patterns import Patterns
from apmae.report.figures import reconstruction
from apmae.schema import RECONSTRUCTIONS_FILE
from apmae.seeding import subseed
from apmae.train import checkpoint
from apmae.train.lm_source import LMSource, own_files
from apmae.train.loop import METRICS, fit, share_of
from apmae.train.metrics import summed
from apmae.train.processes import device_of, gathered, start, told, waited_for
from apmae.train.source import ArraySource, PatternSource

_PANELS = "panels"


def run_training(
    asked: Training,
    out: Path,
    *,
    prompts: Path | None = None,
    corpus: Sequence[Source] = (),
    patterns: Sequence[Path] = (),
    drawn: Callable[[dict[str, Any], Path], None],
    track: str | None = None,
    overwrite: bool = False,
) -> float | None:
    """``apmae train``: draw prompts where source files are given, load the model, train; in each of its processes.

    Args:
        asked: the settings.
        out: the encoder's folder.
        prompts: to train on; or else
        corpus: source files to draw them from, into a file beside the folder; or else
        patterns: stored ones, which need no model.
        drawn: called in the first process with the counts and the file of the prompts that were drawn.
        track: a tracker that also gets the metrics (``train.processes.start``).
        overwrite: replace artifacts made from something else.

    Returns:
        The last loss in ``metrics.jsonl``; None in other processes than the first.
    """
    config, device = asked.config, asked.lm.device
    accelerator = start(device, track=track, folder=out.with_name(f"{out.name}-tracker"))
    place = device_of(accelerator, device)
    if patterns:
        train_on_patterns(patterns, out, config, device=place, overwrite=overwrite, accelerator=accelerator)
    else:
        spread = device == "auto" and accelerator.num_processes == 1
        lm = load(asked.lm.model_copy(update={"device": "auto" if spread else place}))
        if prompts is None:
            assert asked.corpus is not None, "one of three was given"
            prompts = out.with_name(f"{out.name}-prompts.parquet")
            counts = draw_training_prompts(
                corpus, prompts, asked.corpus, lm, overwrite=overwrite, accelerator=accelerator
            )
            if accelerator.is_main_process:
                drawn(counts, prompts)
        train_encoder(lm, prompts, out, config, overwrite=overwrite, accelerator=accelerator)
    last = (out / METRICS).read_text().splitlines()[-1] if accelerator.is_main_process else None
    accelerator.end_training()
    return None if last is None else json.loads(last)["loss"]


def draw_training_prompts(
    sources: Sequence[Source],
    out: Path,
    config: PromptsConfig,
    lm: LM,
    *,
    overwrite: bool = False,
    accelerator: Accelerator | None = None,
) -> dict[str, Any]:
    """Draw prompts to train on, in the first process while the others wait. The model is asked only where its answer
    decides which are kept.

    Args:
        sources: where prompts are drawn from.
        out: a ``.parquet`` file.
        config: tasks, numbers, outcomes.
        lm: the language model.
        overwrite: replace prompts made from something else.
        accelerator: of ``train.processes.start``; by default one process.

    Returns:
        The manifest's counts.
    """

    def draw() -> dict[str, Any]:
        return make_prompts(sources, out, config, lm=lm, ask=config.outcome != "any", overwrite=overwrite)

    return draw() if accelerator is None else waited_for(accelerator, draw)


def train_encoder(
    lm: LM,
    prompts_path: Path,
    out: Path,
    config: TrainConfig,
    *,
    overwrite: bool = False,
    accelerator: Accelerator | None = None,
) -> Path:
    """Train an AP-MAE on the patterns that the model makes of prompts, on the model's (first) device.

    Args:
        lm: the language model, one in each process.
        prompts_path: prompts to train on; unless the config's ``outcome`` is "any", those that the model answers
            incorrectly are left out (paper section 4). Of several processes each takes its own files.
        out: the encoder's folder.
        config: model and training.
        overwrite: replace an artifact made from something else.
        accelerator: of ``train.processes.start``; by default one process.

    Returns:
        The encoder's folder.
    """
    accelerator = accelerator or start(str(lm.device))
    inputs = {"lm": lm.fingerprint, "prompts": fingerprint(prompts_path)}
    with _stage(accelerator, out, decisive(config, lm), inputs, overwrite) as (finished, stage):
        if finished:
            return out
        number, processes = accelerator.process_index, accelerator.num_processes
        with LMSource(
            lm,
            own_files(load_prompts(prompts_path), number, processes),
            config.capture,
            size=config.model.pattern_size,
            batch_size=share_of(config, processes),
            seed=config.seed if processes == 1 else subseed(config.seed, "process", number),
            buffer=config.buffer,
            outcome=config.outcome,
            # A tap stops compiled code meanwhile, in the whole process.
            overlap=False if config.compile else None,
        ) as source:
            mae = _fit(config, source, out, str(lm.device), inputs, accelerator)
            found = summed(gathered(accelerator, {**source.counts(), "prompts": len(source.prompts)}))
            if stage is not None:
                read = {"epochs" if name == "epoch" else name: count for name, count in found.items()}
                read |= {"lm": lm.name}
                _finish(stage, mae, source.batch(config.steps), config, read)
    return out


def train_on_patterns(
    paths: Sequence[Path],
    out: Path,
    config: TrainConfig,
    *,
    device: str = "cpu",
    overwrite: bool = False,
    accelerator: Accelerator | None = None,
) -> Path:
    """Train an AP-MAE on stored patterns, all of them in memory.

    Args:
        paths: files that ``Patterns.load`` reads.
        out: the encoder's folder.
        config: model and training; what concerns prompts is not used.
        device: where to train.
        overwrite: replace an artifact made from something else.
        accelerator: of ``train.processes.start``; by default one process.

    Returns:
        The encoder's folder.
    """
    accelerator = accelerator or start(device)
    inputs = {f"patterns-{number}": fingerprint(path) for number, path in enumerate(paths)}
    with _stage(accelerator, out, config.model_dump(mode="json"), inputs, overwrite) as (finished, stage):
        if finished:
            return out
        patterns = Patterns.concatenate([Patterns.load(path).without_texts() for path in paths])
        number, processes = accelerator.process_index, accelerator.num_processes
        source = ArraySource(patterns, config.batch_size, config.seed, process=number, processes=processes)
        mae = _fit(config, source, out, device, inputs, accelerator)
        # Not the source's own count, which a run that goes on after its last step has not made.
        read = {"patterns": len(patterns), "epochs": (config.steps * config.batch_size - 1) // len(patterns) + 1}
        if stage is not None:
            _finish(stage, mae, source.batch(config.steps), config, read)
    return out


@contextmanager
def _stage(
    accelerator: Accelerator, out: Path, config: Mapping[str, Any], inputs: Mapping[str, str], overwrite: bool
) -> Iterator[tuple[bool, Stage | None]]:
    """Whether there is nothing to do; and the artifact, in the first process alone."""
    with ExitStack() as stack:
        stage = None
        if accelerator.is_main_process:
            stage = stack.enter_context(Stage.open(out, "train", config, inputs, overwrite=overwrite))
            if not stage.finished and not stage.resumed:  # a checkpoint that is there is another run's
                for stale in ((out / checkpoint.NAME), *(out / _PANELS).glob("*.png")):
                    stale.unlink(missing_ok=True)
        finished = told(accelerator, stage.finished if stage else None)
        yield finished, stage


def _fit(
    config: TrainConfig,
    source: PatternSource,
    out: Path,
    device: str,
    inputs: Mapping[str, str],
    accelerator: Accelerator,
) -> APMAE:
    def panel(step: int, mae: APMAE, patterns: Patterns) -> None:
        mae.eval()
        rows = reconstructions(mae, patterns, seed=config.seed).to_pylist()
        mae.train()
        _picture(rows, out / _PANELS / f"step-{step:07d}.png")

    together = " ".join(inputs.values())
    return fit(config, source, folder=out, device=device, inputs=together, accelerator=accelerator, panel=panel)


def _finish(stage: Stage, mae: APMAE, unseen: Patterns, config: TrainConfig, read: Mapping[str, Any]) -> None:
    out = stage.out
    mae.save_pretrained(out)
    table = reconstructions(mae, unseen, seed=config.seed)
    write_table(out / RECONSTRUCTIONS_FILE, table)
    _picture(table.to_pylist(), out / "reconstruction.png")
    files = [CONFIG, WEIGHTS, METRICS, RECONSTRUCTIONS_FILE, "reconstruction.png"]
    files += [f"{_PANELS}/{path.name}" for path in sorted((out / _PANELS).glob("step-*.png"))]
    stage.add_files(files)
    stage.finish({"steps": config.steps, **read, "parameters": mae.num_parameters})
    (out / checkpoint.NAME).unlink(missing_ok=True)


def _picture(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    with replacing(path) as file:
        reconstruction(rows).savefig(file, format="png", metadata={"Software": None})

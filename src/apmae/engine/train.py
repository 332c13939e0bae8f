"""The train stage, in one process or in several that ``torchrun`` started; only the first one writes."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from accelerate import Accelerator

from apmae.artifacts import Stage, fingerprint, read_manifest, replacing, write_table
from apmae.config import PromptsConfig, TrainConfig
from apmae.corpus.source import Source, SourceHandle, list_sources
from apmae.encode import reconstructions
from apmae.engine.prompts import load_prompts
from apmae.engine.settings import Training
from apmae.engine.stages import decisive
from apmae.lm.language_model import LM
from apmae.lm.load import load
from apmae.model.folder import CONFIG, WEIGHTS, WHITENING
from apmae.model.mae import APMAE
from apmae.model.represent import cls_whitening
from apmae.patterns.patterns import Patterns
from apmae.prompts.epochs import DrawnPrompts, files_of, own_files
from apmae.prompts.languages import language_of
from apmae.prompts.prompt import Prompt
from apmae.report.figures import reconstruction
from apmae.schema import RECONSTRUCTIONS_FILE
from apmae.seeding import subseed
from apmae.train import checkpoint
from apmae.train.launch import drawn_share
from apmae.train.lm_source import LMSource
from apmae.train.loop import METRICS, fit
from apmae.train.metrics import summed
from apmae.train.processes import device_of, end, from_first_process, gathered, run_on_first_process, start
from apmae.train.source import ArraySource, PatternSource

_PANELS = "panels"


class Corpus(NamedTuple):
    """Source files that prompts are drawn from as training needs them."""

    sources: Sequence[Source]
    files: Sequence[SourceHandle]
    config: PromptsConfig
    """How they are drawn; which are correct is decided by the forward that is trained on."""

    @classmethod
    def of(cls, sources: Sequence[Source], config: PromptsConfig) -> "Corpus":
        """List the files of sources.

        Raises:
            SourceError: if there is no file of the language and split.
        """
        files = list_sources(sources, suffixes=language_of(config.language).suffixes)
        files_of(files, config)
        return cls(sources, files, config)

    @property
    def listing(self) -> str:
        """SHA-256 of the files' paths and sizes: unlike their contents, every process can read these quickly."""
        return sha256("".join(f"{file.path}\0{file.size}\n" for file in self.files).encode()).hexdigest()


class Trained(NamedTuple):
    """The result of a training."""

    loss: float
    """The last loss in ``metrics.jsonl``."""
    counts: dict[str, Any]
    """Counts of the manifest."""


def run_training(
    asked: Training,
    out: Path,
    *,
    prompts: Path | None = None,
    corpus: Sequence[Source] = (),
    patterns: Sequence[Path] = (),
    track: str | None = None,
    overwrite: bool = False,
) -> Trained | None:
    """``apmae train``: load the model and train, in each of its processes.

    Args:
        asked: the settings.
        out: the encoder's folder.
        prompts: file of prompts to train on; or else
        corpus: source files to draw prompts from during training; or else
        patterns: files of stored patterns, which need no model.
        track: a tracker that also gets the metrics (``train.processes.start``).
        overwrite: replace artifacts made from something else.

    Returns:
        The result; None in all processes but the first.
    """
    given: Path | Corpus | None = prompts
    if corpus:
        assert asked.corpus is not None, "a corpus comes with its settings"
        given = Corpus.of(corpus, asked.corpus)  # refused before the model is loaded
    config, device = asked.config, asked.lm.device
    accelerator = start(device, track=track, folder=out.with_name(f"{out.name}-tracker"))
    place = device_of(accelerator, device)
    if given is None:
        train_on_patterns(patterns, out, config, device=place, overwrite=overwrite, accelerator=accelerator)
    else:
        spread = device == "auto" and accelerator.num_processes == 1
        lm = load(asked.lm.model_copy(update={"device": "auto" if spread else place}))
        train_encoder(lm, given, out, config, overwrite=overwrite, accelerator=accelerator)
    trained = None
    if accelerator.is_main_process:
        last = json.loads((out / METRICS).read_text().splitlines()[-1])
        trained = Trained(last["loss"], read_manifest(out, "train").counts)
    end(accelerator)
    return trained


def train_encoder(
    lm: LM,
    prompts: Path | Corpus,
    out: Path,
    config: TrainConfig,
    *,
    overwrite: bool = False,
    accelerator: Accelerator | None = None,
) -> Path:
    """Train an AP-MAE on the patterns that the model makes of prompts, on the model's (first) device.

    Args:
        lm: the language model, one in each process.
        prompts: a file of prompts to train on, or a corpus to draw them from. Prompts that the model answers
            incorrectly are left out (paper section 4), unless the config's ``outcome`` is "any". Of several processes,
            each takes its own files.
        out: the encoder's folder.
        config: model and training.
        overwrite: replace an artifact made from something else.
        accelerator: from ``train.processes.start``; by default one process.

    Returns:
        The encoder's folder.
    """
    accelerator = accelerator or start(str(lm.device))
    settings, listing = decisive(config, lm), ""
    if isinstance(prompts, Corpus):
        sources = prompts.sources
        # Every byte of the corpus is read for this: once, while the other processes wait.
        hashes = run_on_first_process(accelerator, lambda: [source.fingerprint() for source in sources])
        inputs = {"lm": lm.fingerprint} | {f"source-{number}": content for number, content in enumerate(hashes)}
        settings |= {"corpus": prompts.config.model_dump(mode="json")}
        listing = prompts.listing
    else:
        inputs = {"lm": lm.fingerprint, "prompts": fingerprint(prompts)}
    with _stage(accelerator, out, settings, inputs, overwrite) as (finished, stage):
        if finished:
            return out
        number, processes = accelerator.process_index, accelerator.num_processes
        with LMSource(
            lm,
            _own_prompts(prompts, lm, config, number, processes),
            config.capture,
            size=config.model.pattern_size,
            batch_size=drawn_share(config, processes),
            seed=config.seed if processes == 1 else subseed(config.seed, "process", number),
            buffer=config.buffer,
            outcome=config.outcome,
            # While it is open, a tap stops compiled code in the whole process.
            overlap=False if config.compile else None,
            watched=accelerator.is_main_process,
            pairs=config.objective == "guided",
        ) as source:
            mae = _fit(config, source, out, str(lm.device), [*inputs.values(), listing], accelerator)
            counts = summed(gathered(accelerator, {**source.counts(), **source.prompts.counts()}))
            rejected = sum(map(Counter, gathered(accelerator, source.rejected)), Counter[str]())
            if stage is not None:
                noted = {"epochs" if name == "epoch" else name: count for name, count in counts.items()}
                noted |= {"lm": lm.name}
                if isinstance(prompts, Corpus):
                    noted |= {"rejected": dict(sorted(rejected.items()))}
                _finish(stage, mae, source.batch(config.steps), config, noted)
    return out


def _own_prompts(
    prompts: Path | Corpus, lm: LM, config: TrainConfig, number: int, processes: int
) -> list[Prompt] | DrawnPrompts:
    """The prompts of one of several processes."""
    if not isinstance(prompts, Corpus):
        return own_files(load_prompts(prompts), number, processes)
    files = files_of(prompts.files, prompts.config, process=number, processes=processes)
    return DrawnPrompts(files, prompts.config, tokenizer=lm.backend_tokenizer, redraw=config.redraw)


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
        config: model and training; settings of prompts are not used.
        device: where to train.
        overwrite: replace an artifact made from something else.
        accelerator: from ``train.processes.start``; by default one process.

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
        share = drawn_share(config, processes) * processes
        guided = config.objective == "guided"
        source = ArraySource(patterns, share, config.seed, process=number, processes=processes, pairs=guided)
        mae = _fit(config, source, out, device, list(inputs.values()), accelerator)
        # Not the source's own count, which is missing in a run that was resumed after its last step.
        noted = {"patterns": len(patterns), "epochs": (config.steps * share - 1) // len(patterns) + 1}
        if stage is not None:
            _finish(stage, mae, source.batch(config.steps), config, noted)
    return out


@contextmanager
def _stage(
    accelerator: Accelerator, out: Path, config: Mapping[str, Any], inputs: Mapping[str, str], overwrite: bool
) -> Iterator[tuple[bool, Stage | None]]:
    """Whether the artifact is finished already; and, in the first process only, its stage."""
    with ExitStack() as stack:
        stage = None
        if accelerator.is_main_process:
            stage = stack.enter_context(Stage.open(out, "train", config, inputs, overwrite=overwrite, repairs=False))
            if not stage.finished and not stage.resumed:  # an earlier checkpoint is another run's
                for stale in ((out / checkpoint.NAME), *(out / _PANELS).glob("*.png")):
                    stale.unlink(missing_ok=True)
        finished = from_first_process(accelerator, stage.finished if stage else None)
        yield finished, stage


def _fit(
    config: TrainConfig,
    source: PatternSource,
    out: Path,
    device: str,
    inputs: Sequence[str],
    accelerator: Accelerator,
) -> APMAE:
    def panel(step: int, mae: APMAE, patterns: Patterns) -> None:
        mae.eval()
        rows = reconstructions(mae, patterns, seed=config.seed).to_pylist()
        mae.train()
        _picture(rows, out / _PANELS / f"step-{step:07d}.png")

    together = " ".join(inputs).rstrip()
    return fit(config, source, folder=out, device=device, inputs=together, accelerator=accelerator, panel=panel)


def _finish(stage: Stage, mae: APMAE, unseen: Patterns, config: TrainConfig, noted: Mapping[str, Any]) -> None:
    out = stage.out
    cls_whitening(mae)
    mae.save_pretrained(out)
    table = reconstructions(mae, unseen, seed=config.seed)
    write_table(out / RECONSTRUCTIONS_FILE, table)
    _picture(table.to_pylist(), out / "reconstruction.png")
    files = [CONFIG, WEIGHTS, WHITENING, METRICS, RECONSTRUCTIONS_FILE, "reconstruction.png"]
    files += [f"{_PANELS}/{path.name}" for path in sorted((out / _PANELS).glob("step-*.png"))]
    stage.add_files(files)
    stage.finish({"steps": config.steps, **noted, "parameters": mae.num_parameters})
    (out / checkpoint.NAME).unlink(missing_ok=True)


def _picture(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    with replacing(path) as file:
        reconstruction(rows).savefig(file, format="png", metadata={"Software": None})

"""The evaluate stage: any number of encoders on the patterns of any number of language models (paper Table 3).

One artifact a language model, so that one more costs its own patterns only; tables and picture are always made again.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from apmae import bundled
from apmae.analyze.tag import measured_names
from apmae.artifacts import Stage, fingerprint, manifest_path, read_json
from apmae.config import EvaluateConfig
from apmae.encode import check_length, score_batch
from apmae.engine.decisive import decisive
from apmae.engine.prompts import load_prompts
from apmae.errors import ConfigError, SourceError
from apmae.lm.load import LM
from apmae.model.mae import APMAE
from apmae.prompts.prompt import Prompt
from apmae.report.evaluation import Evaluation, write_evaluation
from apmae.train.evaluate import evaluate_prompts


def cross_evaluate(
    lms: Sequence[str],
    encoders: Sequence[str],
    prompts_path: Path,
    out: Path,
    config: EvaluateConfig,
    *,
    load: Callable[[str], LM],
    overwrite: bool = False,
) -> Evaluation:
    """Every encoder on every language model's patterns.

    Args:
        lms: folders or hub ids of language models, or bundled ones; loaded one after another.
        encoders: folders or hub ids of AP-MAEs, or "bundled".
        prompts_path: prompts, Parquet or JSONL.
        out: the evaluation's folder.
        config: heads, masks, shards.
        load: loads a language model.
        overwrite: replace losses made from something else.

    Raises:
        ConfigError: if there is no language model or encoder, or one is given twice.
        SourceError: if there are no prompts.
    """
    sources, named = _named(lms, "language models"), _named(encoders, "encoders")
    prompts = load_prompts(prompts_path)
    if not prompts:
        raise SourceError(f"expected prompts to evaluate on in {prompts_path}, found none; give another file")
    maes = {name: APMAE.from_pretrained(source) for name, source in named.items()}
    inputs = {f"encoder-{name}": _content(source) for name, source in named.items()}
    inputs["prompts"] = fingerprint(prompts_path)
    folders = {name: out / name.replace("/", "--") for name in sources}
    known = {}
    for name, source in sources.items():
        known[name] = _losses(load(source), name, folders[name], maes, prompts, inputs, config, overwrite)
    own = _owners(named, known)
    scalings = {name: mae.config.scaling for name, mae in maes.items()}
    seen = Counter(prompt.split for prompt in prompts)["train"]
    notes = []
    if seen:
        notes.append(
            f"{seen} of {len(prompts)} prompts are of the split 'train', which an encoder may have been trained on: "
            "draw prompts with --set split=held_out."
        )
    return write_evaluation(out, folders, own, scalings, notes)


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
            sizes = dict.fromkeys(mae.config.pattern_size for mae in maes.values())
            evaluate_prompts(
                lm,
                {encoder: mae.to(lm.device) for encoder, mae in maes.items()},
                prompts,
                config,
                stage,
                name=name,
                lengths={size: check_length(lm, size, config.context) for size in sizes},
                measured=lambda captured: measured_names(score_batch(captured)),
            )
            stage.finish({"lm": name, "rows": stage.rows("losses"), "layers": lm.num_layers, "heads": lm.num_heads})
    return lm.fingerprint


def _named(sources: Sequence[str], what: str) -> dict[str, str]:
    """Sources by name: the end of each one's path that no other has.

    Raises:
        ConfigError: if there is none, or one comes twice.
    """
    parts = []
    for source in sources:
        path = Path(source)
        parts.append(path.resolve().parts if path.is_dir() else path.parts)
    twice = [source for source, many in zip(sources, parts, strict=True) if parts.count(many) > 1]
    if twice or not sources:
        raise ConfigError(f"expected {what}, each once, got {f'{twice[0]} twice' if twice else 'none'}")
    names: dict[str, str] = {}
    for source, own in zip(sources, parts, strict=True):
        depth = 1
        while sum(own[-depth:] == other[-depth:] for other in parts) > 1:
            depth += 1
        names["/".join(own[-depth:])] = source
    return names


def _folder(encoder: str) -> Path:
    return bundled.encoder() if encoder == "bundled" else Path(encoder)


def _content(encoder: str) -> str:
    """What an encoder is, by content; of a hub model its id."""
    folder = _folder(encoder)
    return fingerprint(folder) if folder.is_dir() else encoder


def _owners(encoders: Mapping[str, str], lms: Mapping[str, str]) -> dict[str, str]:
    """The language model that each encoder was trained on, where it is known and one of these.

    Its manifest knows; the bundled one is the bundled language model's. Where nothing says, and there are as many
    encoders as language models, the order does.

    Args:
        encoders: sources by name.
        lms: fingerprints by name.
    """
    names = {content: name for name, content in lms.items()}
    own = {}
    for place, (encoder, source) in enumerate(encoders.items()):
        manifest = manifest_path(_folder(source))
        if source == "bundled":
            found = names.get(fingerprint(bundled.language_model()))
        elif manifest.is_file():
            found = names.get(read_json(manifest).get("inputs", {}).get("lm"))
        else:
            found = list(lms)[place] if len(lms) == len(encoders) else None
        if found is not None:
            own[encoder] = found
    return own

"""What does reading heads where the model answers cost? The plain forward, the full capture, the last rows, the rest.

    python benchmarks/answers.py MODEL [--dtype bfloat16] [--prompts 4] [--rounds 5]
    python benchmarks/answers.py --heads 4 8 16 32        (random models of so many heads in each of four layers)

Prompts are windows of 256 tokens, of the bundled Java or, for random models, random. All variants run in turn, round
after round, so that whatever else the machine does hits them alike. Each number is the median over rounds of the
variant's CPU time divided by the plain forward's in the same round. "all of it" is what the answers stage does with a
batch: it asks the model, runs it again with everybody watching, and makes the columns; the last column counts what is
beyond its two forwards. Memory is what a batch keeps of the patterns, by its shapes.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from transformers import AutoModelForCausalLM, Starcoder2Config

from apmae import bundled
from apmae.config import LMConfig
from apmae.lm.flow import Flow
from apmae.lm.language_model import LM
from apmae.lm.last_row import capture_last_rows, record_outputs
from apmae.lm.load import load_lm
from apmae.lm.observe import observing
from apmae.lm.outcome import pad, window_of
from apmae.lm.reading import read_batch
from apmae.lm.readout import Readout
from apmae.lm.tap import capture
from apmae.lm.tracing import find_readout
from apmae.patterns.answer_row import describe_rows
from apmae.prompts.fim import Window
from apmae.prompts.line import text_prompt

_SIZE = 256
_LONG = 4000
"""Characters that fill any window."""


def of_java(lm: LM, prompts: int) -> list[Window]:
    """Windows of the bundled Java."""
    texts = [path.read_text() for path in sorted(bundled.java().rglob("*.java"))]
    chosen = [text[:_LONG] for text in texts if len(text) >= _LONG][:prompts]
    return [window_of(lm, text_prompt(text, "1", None), _SIZE) for text in chosen]


def random_lm(heads: int) -> LM:
    """Four layers of heads of width 32, in the shape of StarCoder2, with the bundled tokenizer."""
    torch.manual_seed(0)
    config = Starcoder2Config(
        vocab_size=4096,
        hidden_size=32 * heads,
        intermediate_size=128 * heads,
        num_hidden_layers=4,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=512,
        sliding_window=None,
    )
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval().requires_grad_(False)
    tokenizer = load_lm(check=False).tokenizer
    return LM(model=model, tokenizer=tokenizer, config=LMConfig(), causal=True, sentinels=None, bos=None)


def variants(lm: LM, windows: list[Window]) -> dict[str, Callable[[], object]]:
    """Each variant as a function that reads one batch."""
    ids, mask = pad([window.ids for window in windows], lm.pad_id)
    inputs = {"input_ids": ids.to(lm.device), "attention_mask": mask.to(lm.device), "use_cache": False}
    few = {"logits_to_keep": 1} if lm.keeps_logits else {}
    found = find_readout(lm)
    readout = found if isinstance(found, Readout) else None
    copies = inputs["input_ids"] == inputs["input_ids"][:, :1]

    def forward() -> object:
        return lm.model(**inputs, **few)

    def full() -> object:
        with capture(lm.model, dtype=torch.float16) as tap:
            forward()
        return tap.patterns

    def last() -> object:
        with capture_last_rows(lm.model) as rows:
            forward()
        return rows.rows

    def outputs() -> object:
        with record_outputs(lm.model) as recorded:
            forward()
        return recorded.of(range(len(windows)))

    def flow() -> object:
        own = Flow(copies, 10)
        with observing(lm.model, own.see):
            forward()
        return own.flow(), own.eigenvalues()

    def everything() -> object:
        read = read_batch(lm, windows, readout, eigenvalues=10)
        each = zip(read.rows, windows, read.answers, strict=True)
        return [describe_rows(rows, window, answer.predicted_id or 0) for rows, window, answer in each]

    return {
        "plain forward": forward,
        "capture, 100 %": full,
        "last rows": last,
        "heads' outputs": outputs,
        "flow and eigenvalues": flow,
        "all of it": everything,
    }


@torch.no_grad()
def measure(lm: LM, windows: list[Window], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of every variant in every round, after one that does not count."""
    runs = variants(lm, windows)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        names = list(runs)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            start = time.process_time()
            runs[name]()
            if number:
                seconds[name].append(time.process_time() - start)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="bundled")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--heads", type=int, nargs="*", default=[], help="random models instead")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print("| model | heads | variant | ms per prompt | x plain forward | beyond forwards, us per head |")
    print("|---|---|---|---|---|---|")
    for heads in arguments.heads or [None]:
        lm = load_lm(arguments.model, dtype=arguments.dtype, check=False) if heads is None else random_lm(heads)
        windows = of_java(lm, arguments.prompts)
        total, seconds = sum(lm.heads.values()), measure(lm, windows, arguments.rounds)
        plain, name = seconds["plain forward"], lm.name if heads is None else f"4 x {heads} random"
        for variant, spent in seconds.items():
            ratio = statistics.median(own / bound for own, bound in zip(spent, plain, strict=True))
            forwards = 2 if variant == "all of it" else 1
            beyond = statistics.median(own - forwards * bound for own, bound in zip(spent, plain, strict=True))
            cells = [name, f"{total}", variant, f"{1000 * statistics.median(spent) / len(windows):.0f}", f"{ratio:.2f}"]
            cells.append("" if variant == "plain forward" else f"{1e6 * beyond / len(windows) / total:.0f}")
            print("| " + " | ".join(cells) + " |", flush=True)
        kept = 4 * len(lm.heads) * _SIZE**2 + 4 * total * _SIZE * 2
        print(f"{name}: {kept / 2**20:.1f} MB of patterns are kept per prompt while a batch runs")


if __name__ == "__main__":
    main()

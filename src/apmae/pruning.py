"""The stream LM -> what one backward and one reading say of every head -> Parquet, on the half that ranks heads.

A shard is some consecutive prompts of that half and depends only on them and on the heads' means, so a killed run ends
with the same bytes. Heads are removed by ``apmae.ablation``.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from apmae.ablation import Windows, batches
from apmae.artifacts import Records, Shard, write_tables
from apmae.config import PruneConfig
from apmae.lm.changes import Mean
from apmae.lm.importance import importance_of
from apmae.lm.reading import read_batch
from apmae.lm.record import Place
from apmae.progress import Advance
from apmae.schema import HEAD_READINGS


def readings_shard(
    shard: Shard,
    *,
    windows: Windows,
    ranking: Sequence[int],
    means: Mapping[Place, Mean] | None,
    patterns: bool,
    config: PruneConfig,
    root: Path,
    advance: Advance | None = None,
) -> Records:
    """Read every head on some prompts of the ranking half.

    Args:
        shard: which places of ``ranking``; its file is that of ``schema.READINGS``.
        windows: of all prompts.
        ranking: numbers of the prompts that rank heads.
        means: what stands in place of heads; None: nothing.
        patterns: whether flow and mass on the first token are read too, with two more forwards.
        config: batch.
        root: the folder for the file.
        advance: called with the prompts of each batch.
    """
    lm = windows.lm
    layer = np.repeat(list(lm.heads), list(lm.heads.values())).astype(np.int16)
    head = np.concatenate([np.arange(count) for count in lm.heads.values()]).astype(np.int16)
    found = []
    for batch in batches(windows, ranking[shard.first : shard.stop], config.batch):
        said = importance_of(lm, batch.windows, means)
        flow = first = np.full(len(batch.numbers) * len(head), np.nan, np.float32)
        if patterns:
            read = read_batch(lm, batch.windows, None, eigenvalues=1)
            flow = read.flow.flatten().numpy()
            first = np.concatenate([rows[:, 0].exp().numpy() for rows in read.rows])
        columns = {
            "prompt": np.repeat(np.array(batch.numbers, np.int32), len(head)),
            "layer": np.tile(layer, len(batch.numbers)),
            "head": np.tile(head, len(batch.numbers)),
            "gradient": said.gradient.flatten().numpy(),
            "attribution": said.attribution.flatten().numpy(),
            "flow": pa.array(flow, pa.float32(), from_pandas=True),
            "first_token": pa.array(first, pa.float32(), from_pandas=True),
        }
        found.append(pa.table(columns, schema=HEAD_READINGS))
        if advance:
            advance(len(batch.numbers))
    return write_tables(root, {shard.files[0]: pa.concat_tables(found)})

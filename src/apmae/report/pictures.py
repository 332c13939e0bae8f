"""The figures of a report with their titles and captions, in the order of the paper."""

from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from apmae.analyze.locations import head_grid, prompt_grid
from apmae.report import figures
from apmae.report.examples import extremes_of_a_cluster, one_per_cluster, typical_prompt
from apmae.report.palette import NO_HEAD
from apmae.study.reader import SAMPLE_ROWS, Study

_EXAMPLES = 12
"""Clusters in Figure 8."""


class Picture(NamedTuple):
    """One figure of the page."""

    name: str
    """File name without its ending."""
    title: str
    caption: str
    figure: Figure


def pictures_of(study: Study) -> list[Picture]:
    """Draw every figure of a study."""
    sample, members = study.sample(), extremes_of_a_cluster(study)
    examples = one_per_cluster(study, _EXAMPLES)
    prompt = typical_prompt(study)
    single = prompt_grid(study.points, prompt, study.layers, study.heads)
    single[np.arange(study.heads) >= np.array(study.heads_by_layer)[:, None]] = NO_HEAD
    grid = head_grid(study.points, study.layers, study.heads)
    of_all = "" if study.points.num_rows <= SAMPLE_ROWS else f" A seeded sample of {SAMPLE_ROWS:,} patterns."
    varied = f"cluster {members[0].cluster}, {members[0].name}" if members else "one cluster"
    return [
        Picture(
            "reconstruction",
            "Reconstruction of hidden patches",
            "Paper Figure 3. Whole patterns, what the encoder was shown of them, what its decoder put into the hidden "
            "patches (grey), and both together. From the smallest loss on top to the largest: where the last column "
            "looks like the first, the embedding holds what the pattern looks like.",
            figures.reconstruction(study.reconstructions),
        ),
        Picture(
            "embedding_steps",
            "From embeddings to clusters",
            "Paper Figure 6. A: the first two dimensions of the embeddings as the encoder gives them, by the head that "
            "made the pattern. B: the first two reduced dimensions (UMAP). C: the same by cluster, grey where a "
            f"pattern is in none. D: clustered patterns only, same axes. Colours are those of the head grid.{of_all}",
            figures.embedding_steps(sample, study.layers, study.heads),
        ),
        Picture(
            "pattern_examples",
            "One pattern of each cluster",
            "Paper Figure 8. The largest clusters, each shown by the kept pattern that is nearest to the centre. Every "
            "row is a query token, every column a key token it may look at; yellow is most attention, and white "
            "cannot be attended to.",
            figures.pattern_examples(examples),
        ),
        Picture(
            "cluster_variation",
            "Variation within a cluster",
            f"Paper Figure 9. Members of {varied} that lie furthest apart in reduced coordinates, by farthest-point "
            "selection among the kept patterns (the paper takes points of the convex hull). What they share is what "
            "the cluster means; where they differ is what it tolerates.",
            figures.cluster_variation(members),
        ),
        Picture(
            "head_maps",
            "Where patterns occur",
            "Paper Figure 10. A: the cluster of every head on one prompt, the one whose share of clustered heads is "
            "the median. B: over all prompts, the share of a head's patterns that belong to any cluster. C: how many "
            "different clusters they belong to.",
            figures.head_maps(prompt, single, grid, study.names),
        ),
    ]

"""The figures of a report with their titles and captions, in the order of the paper."""

from typing import NamedTuple

from matplotlib.figure import Figure

from apmae.report import figures
from apmae.report.ablation_figures import doses_figure, head_effects_figure
from apmae.report.atlas_figures import draw_heads
from apmae.report.circuit_figures import circuit_figure
from apmae.report.examples import extremes_of_a_cluster, one_per_cluster
from apmae.report.prediction_figures import calibration_figure, coverage_figure
from apmae.report.pruning_figures import pruning_figure
from apmae.study.ablation import Ablation
from apmae.study.circuit import Circuit
from apmae.study.pruning import Pruning
from apmae.study.reader import SAMPLE_ROWS, Predicted, Study

_EXAMPLES = 12
"""Clusters in Figure 8."""


class Picture(NamedTuple):
    """One figure of the page."""

    name: str
    """File name without its suffix."""
    title: str
    caption: str
    figure: Figure


def pictures_of(study: Study) -> list[Picture]:
    """Draw every figure of a study."""
    sample, members = study.sample(), extremes_of_a_cluster(study)
    examples = one_per_cluster(study, _EXAMPLES)
    of_all = "" if study.points.num_rows <= SAMPLE_ROWS else f" A seeded sample of {SAMPLE_ROWS:,} patterns."
    varied = f"cluster {members[0].cluster}, {members[0].name}" if members else "one cluster"
    return [
        Picture(
            "reconstruction",
            "Reconstruction of hidden patches",
            "Paper Figure 3. Whole patterns, what the encoder saw of them (hidden patches are grey), what its decoder "
            "put into the hidden patches, and both together; the smallest loss is on top. Where the last column looks "
            "like the first, the embedding holds what the pattern looks like.",
            figures.reconstruction(study.reconstructions),
        ),
        Picture(
            "embedding_steps",
            "From embeddings to clusters",
            "Paper Figure 6. A: the first two dimensions of the embeddings as the encoder gives them, by the head that "
            "made the pattern. B: the first two reduced dimensions (UMAP). C: the same by cluster, grey for patterns "
            f"in no cluster. D: clustered patterns only, same axes. Colours are those of the head grid.{of_all}",
            figures.embedding_steps(sample, study.layers, study.heads),
        ),
        Picture(
            "pattern_examples",
            "One pattern of each cluster",
            "Paper Figure 8. The largest clusters, each shown by its medoid: the kept pattern with the least total "
            "distance to the others. Every row is a query token, every column a key token that it may attend to. "
            "Yellow is most attention; what is white cannot be attended to.",
            figures.pattern_examples(examples),
        ),
        Picture(
            "cluster_variation",
            "Variation within a cluster",
            f"Paper Figure 9. The members of {varied} that are furthest apart on its convex hull in reduced "
            "coordinates, among the kept patterns. What they have in common is what the cluster means; their "
            "differences are what it tolerates.",
            figures.cluster_variation(members),
        ),
        Picture(
            "head_maps",
            "Where patterns occur",
            "Paper Figure 10. A: the cluster of every head on one prompt, the prompt with the median share of "
            "clustered heads. B: over all prompts, the share of a head's patterns that belong to any cluster. C: how "
            "many different clusters they belong to.",
            draw_heads(study.points, study.names, study.heads_by_layer),
        ),
        *(_prediction(study.predicted) if study.predicted is not None else ()),
        *(_circuit(study.circuit) if study.circuit is not None else ()),
        *(_ablation(study.ablated) if study.ablated is not None else ()),
        *(_pruning(study.pruned) if study.pruned is not None else ()),
    ]


def _pruning(found: Pruning) -> list[Picture]:
    return [
        Picture(
            "pruning",
            "Accuracy without heads",
            "Share of the accuracy that is left on the half of the files that did not rank the heads, with 95% "
            "intervals: the first heads of each ranking removed, random heads of the same layers, any random heads. "
            "Dotted: 95%.",
            pruning_figure(found),
        )
    ]


def _ablation(found: Ablation) -> list[Picture]:
    return [
        Picture(
            "head_effects",
            "What each head does",
            "Mean change of the expected token's log-probability when a head is removed alone, over all prompts: red "
            "where the model gets worse. A dot: beyond the 95% interval in both halves of the files.",
            head_effects_figure(found),
        ),
        Picture(
            "doses",
            "Heads removed together",
            "Change of accuracy on the half of the files that did not rank the heads, with 95% intervals. Choosing "
            "heads matters where the ranked ones leave the random ones.",
            doses_figure(found),
        ),
    ]


def _prediction(found: Predicted) -> list[Picture]:
    return [
        Picture(
            "calibration",
            "Are probabilities right?",
            "Prompts in bins of equally many, by the probability of correct that models of other files give them; the "
            "bars are 95% intervals, prompts taken as independent. On the dotted line probabilities are right.",
            calibration_figure(found),
        ),
        Picture(
            "risk_coverage",
            "Risk by coverage",
            "If only the surest prompts are answered, how many of these answers are incorrect. Left: by sets of "
            "features, of those with heads the best by AUROC; the dotted line knows the task only. Right: the "
            "predictor that apmae predict MODEL FILE uses. A risk can be promised where the dashed line is below it.",
            coverage_figure(found),
        ),
    ]


def _circuit(found: Circuit) -> list[Picture]:
    return [
        Picture(
            "circuit",
            "Heads that carry a task",
            "Left: by how much the right completion's logit is less ahead of the wrong one if a head's output is that "
            "on the counterfactual prompt (blue; red if it is more ahead); dots mark the shortlist, white was not "
            "patched or has no effect. Right, where all heads were patched: how many of the true top ten the first "
            "heads of each filter have. The dotted line is chance, the dashed one how well one half of the prompts' "
            "groups gives the other's.",
            circuit_figure(found),
        )
    ]

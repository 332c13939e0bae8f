"""Do the nearest patterns do the same, in one model and across two? By the kinds that their own scores give.

    python experiments/similar.py demo-study smollm2-study

Patterns drawn from each study are looked for in each, their own head left out. The kind that leads a pattern's own
scores is compared with that of its nearest pattern, and with those of patterns drawn from the study (chance). By how
many of the drawn patterns have a nearer relative, it also shows whether a far neighbour can be trusted less.
"""

import argparse
from collections import Counter

import numpy as np
import pyarrow as pa

from apmae.analyze.similar import Queries, find_similar, represented_of
from apmae.artifacts import matrix, read_table
from apmae.atlas.kinds import kinds_of, measured_names
from apmae.config import SimilarConfig
from apmae.engine.similar_checks import expect_one_kind, named_studies
from apmae.schema import SCORES
from apmae.seeding import generator
from apmae.study.placed import Placed


def leading_kinds(study: Placed) -> dict[tuple[int, int, int], str]:
    """The kind that leads each pattern's own scores, without "some"."""
    columns = ["prompt", "layer", "head", "key_kinds", *(f"score_{name}" for name in SCORES)]
    table = pa.concat_tables([read_table(path, columns) for path in study.embedding_files])
    values = np.stack([table[f"score_{name}"].to_numpy() for name in SCORES], axis=1)
    names = measured_names(values, matrix(table["key_kinds"]))
    places = zip(*(table[name].to_pylist() for name in ("prompt", "layer", "head")), strict=True)
    return {place: kinds_of(name)[0].removeprefix("some ") for place, name in zip(places, names, strict=True)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="+")
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    named = named_studies(arguments.studies)
    metric = expect_one_kind(named)
    kinds = {name: leading_kinds(study) for name, study in named.items()}
    config = SimilarConfig(count=1, seed=arguments.seed)
    print("| patterns of | looked for in | same kind | by chance | nearer half | further half |")
    for asked, source in named.items():
        places = list(kinds[asked])
        picked = generator(arguments.seed, "queries", asked).choice(len(places), arguments.queries, replace=False)
        some = [places[number] for number in np.sort(picked).tolist()]
        z, judged = represented_of(source, some)
        z, some = z[judged], [place for place, able in zip(some, judged.tolist(), strict=True) if able]
        for searched, study in named.items():
            own = tuple((0, layer, head) if asked == searched else None for _, layer, head in some)
            rows = find_similar(Queries(z, own), {searched: study}, metric, config).patterns.to_pylist()
            same = np.array(
                [kinds[asked][place] == kinds[searched][row["prompt"], row["layer"], row["head"]]
                 for place, row in zip(some, rows, strict=True)]
            )  # fmt: skip
            share = Counter(kinds[searched].values())
            chance = np.mean([share[kinds[asked][place]] / len(kinds[searched]) for place in some])
            far = np.array([row["controls"] for row in rows])
            halves = [same[far <= np.median(far)].mean(), same[far > np.median(far)].mean()]
            error = np.sqrt(same.mean() * (1 - same.mean()) / len(same))
            print(
                f"| {asked} | {searched} | {same.mean():.2f} \u00b1 {error:.2f} | {chance:.2f} | {halves[0]:.2f} | "
                f"{halves[1]:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()

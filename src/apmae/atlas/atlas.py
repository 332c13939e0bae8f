"""``Atlas``: named clusters, fitted over embeddings, among which new patterns are placed. Saved without pickle."""

from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int
from numpy import ndarray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from apmae import bundled
from apmae.artifacts import read_json, read_table, write_json, write_table, write_through
from apmae.atlas import members
from apmae.atlas.clusterers import Clusterer, GlobalClusterer
from apmae.atlas.compare import Comparison, Fitted, compared
from apmae.atlas.names import Measured, cluster_names, kinds_of, named_clusters
from apmae.atlas.place import Placement, Reference
from apmae.atlas.rows import FP16_MAX, finite_embeddings, heads_of_rows, passing_rows, stored
from apmae.config import AtlasConfig, Representation, parse, parse_representation
from apmae.errors import ArtifactError, ConfigError
from apmae.schema import ATLAS_FILE, CLUSTERS_FILE, NOISE

_REFERENCE = "reference.safetensors"


@runtime_checkable
class Encoder(Protocol):
    """A model that makes embeddings, such as an ``APMAE``."""

    @property
    def fingerprint(self) -> str:
        """A hash of its content."""
        ...


def fingerprint_of(encoder: Encoder | str) -> str:
    """The fingerprint of an encoder; a fingerprint is returned as it is."""
    return encoder if isinstance(encoder, str) else encoder.fingerprint


class Atlas:
    """Clusters over embeddings.

    Attributes:
        labels_: (n,) cluster of each fitted row, -1 for noise.
        coordinates_: (n, r) reduced coordinates of each fitted row.
        clusters: a pyarrow table, ``schema.CLUSTERS``, one row per cluster, largest first.
        dropped: how many clusters the filters left out, by reason.
        encoder: fingerprint of the encoder that made the fitted embeddings; None if it was not given.
        representation: what the fitted rows are, "joint", "descriptor" or "cls"; None if that was not given.
        constants: fingerprint of the descriptor's constants (``bundled.constants``) that made them; None if unknown.
        models: names of the language models whose patterns it was fitted on; empty if they were not given.
        unstructured_: how many fitted rows the gate left out.
    """

    def __init__(
        self,
        config: AtlasConfig,
        clusters: pa.Table,
        reference: Reference,
        *,
        encoder: str | None = None,
        representation: Representation | None = None,
    ) -> None:
        self.config = config
        self.encoder = encoder
        self.representation: Representation | None = representation
        self.models: tuple[str, ...] = ()
        self.constants: str | None = None
        self.unstructured_ = 0
        self.clusters = clusters
        self._reference = reference
        self.labels_: Int[ndarray, " n"] = np.zeros(0, np.int64)
        self.coordinates_: Float[ndarray, "n r"] = np.zeros((0, reference.coordinates.shape[1]), np.float32)
        self.dropped: dict[str, int] = {}

    @classmethod
    def fit(
        cls,
        z: Any,
        *,
        seed: int | np.integer | None = None,
        where: Any = None,
        config: AtlasConfig | None = None,
        num_heads: int | None = None,
        measured: Measured | None = None,
        encoder: Encoder | str | None = None,
        representation: str | None = None,
        structured: Any = None,
    ) -> "Atlas":
        """Reduce, cluster, filter, name (paper section 5).

        Args:
            z: (n, d) embeddings, array or CPU tensor.
            seed: for UMAP and the choice of reference points; None takes the configuration's.
            where: ``(layer, head)``, two int arrays (n,): the head of each row. Clusterers that work per head need it;
                the only one so far does not, and gives the same clusters with or without it.
            config: settings; the paper's by default.
            num_heads: heads of the whole language model, which scale the smallest cluster; None: 5 members.
            measured: scores of the same rows; without them clusters are called "cluster 0", "cluster 1", ...
            encoder: the encoder that made the embeddings: an ``APMAE``, or its fingerprint, which is among the inputs
                in the manifest of embeddings. The atlas then refuses embeddings of other encoders. None takes the array
                as it is; then only the width of later embeddings is checked.
            representation: what the rows are, "joint", "descriptor" or "cls" (``apmae.represent``). The atlas then
                refuses rows of another one, and ``apmae.tag`` makes those that fit. None: only their width is checked.
            structured: (n,) booleans: rows that fail the gate (``patterns/gate.py``) are in no cluster, and the fit
                does not see them. None: all pass.

        Raises:
            ConfigError: if there are fewer than two rows that pass, some are not finite or beyond fp16's range,
                ``where`` or ``structured`` does not hold as many values, or there is no such representation.
        """
        config = config or AtlasConfig()
        kind = None if representation is None else parse_representation(representation)
        if seed is not None:
            config = config.model_copy(update={"seed": int(seed)})
        z = finite_embeddings(z)
        if np.abs(z).max(initial=0) > FP16_MAX:
            raise ConfigError(
                f"expected embeddings within {FP16_MAX:g}, fp16's range, got {np.abs(z).max():g}; scale them down"
            )
        if len(z) < 2:
            raise ConfigError(f"expected at least 2 embeddings to fit an atlas, got {len(z)}; encode more prompts")
        z, heads, passing = stored(z), heads_of_rows(where, len(z)), passing_rows(structured, len(z))
        if passing.sum() < 2:
            raise ConfigError(
                f"expected at least 2 patterns with structure to fit an atlas, got {int(passing.sum())} of {len(z)}; "
                "rows of the others could have been shuffled: look at some (apmae show)"
            )
        own = z[passing]
        clusterer: Clusterer = GlobalClusterer(config, num_heads)
        fitted = clusterer.fit(own, None if heads is None else (heads[0][passing], heads[1][passing]))
        if measured is not None:
            measured = Measured(*(values[passing] for values in measured))
        table = named_clusters(fitted.labels_, fitted.mean_distances_, fitted.persistence_, measured)
        reference = Reference.of(own, fitted.labels_, fitted.coordinates_, fitted.nearest_distances_, config)
        known = None if encoder is None else fingerprint_of(encoder)
        atlas = cls(config, table, reference, encoder=known, representation=kind)
        atlas.labels_ = np.full(len(z), NOISE, np.int64)
        atlas.labels_[passing] = fitted.labels_
        atlas.coordinates_ = np.zeros((len(z), fitted.coordinates_.shape[1]), np.float32)
        atlas.coordinates_[passing] = fitted.coordinates_
        if not passing.all():  # somewhere near what they resemble
            atlas.coordinates_[~passing] = reference.place(z[~passing], config.metric).coordinates
        atlas.unstructured_ = int((~passing).sum())
        atlas.dropped = fitted.dropped_
        return atlas

    @property
    def names(self) -> dict[int, str]:
        """Name of each cluster; -1 is "unknown"."""
        return cluster_names(self.clusters)

    @property
    def _behaviours(self) -> Int[ndarray, " c"]:
        """The leading behaviour of each cluster's name, as a number; clusters called by number have their own."""
        leading = [kinds_of(name)[0] for name in self.clusters["name"].to_pylist()]
        return np.unique(leading, return_inverse=True)[1].astype(np.int64)

    def expect_encoder(self, encoder: Encoder | str) -> None:
        """Check that an encoder is the atlas's own. An atlas that does not know its encoder accepts any.

        Args:
            encoder: an ``APMAE``, or its fingerprint.

        Raises:
            ConfigError: if the atlas was fitted with another encoder.
        """
        found = fingerprint_of(encoder)
        if self.encoder is not None and found != self.encoder:
            raise ConfigError(
                f"expected the encoder that the atlas was fitted with ({self.encoder[:12]}), got another "
                f"({found[:12]}); give two that belong together, or encode and cluster with this encoder"
            )

    def expect_constants(self) -> None:
        """Refuse to compare with the descriptors that this version makes, if the fitted ones had other constants.

        Raises:
            ConfigError: if they had.
        """
        if self.constants not in (None, bundled.constants()):
            raise ConfigError(
                f"expected an atlas of descriptors with this version's constants ({bundled.constants()[:12]}), got one "
                f"with others ({self.constants[:12]}); encode and cluster again with this version"
            )

    def expect_representation(self, kind: str | None, width: int) -> None:
        """Refuse rows that are not what the atlas was fitted on.

        Args:
            kind: their representation; None if it is not known, then only their width is checked.
            width: numbers in each.

        Raises:
            ConfigError: if they are of another representation or width.
        """
        own = self.representation
        if None not in (kind, own) and kind != own:
            raise ConfigError(
                f"expected {own} rows, as the atlas was fitted on, got {kind}: make them with "
                f"apmae.represent(patterns, mae, kind={own!r}), or fit an atlas on {kind} rows"
            )
        fitted = self._reference.embeddings.shape[1]
        if width != fitted:
            known = f"make {own} rows with its encoder, apmae.represent(patterns, mae, kind={own!r})"
            unknown = "use its encoder and representation, which is not noted (Atlas.fit(..., representation=...))"
            raise ConfigError(
                f"expected embeddings of {fitted} dimensions, as the atlas was fitted on, got {width}"
                f"{f' ({kind})' if kind else ''}; {known if own else unknown}"
            )

    def place(
        self,
        z: Any,
        *,
        where: Any = None,
        encoder: Encoder | str | None = None,
        representation: str | None = None,
        structured: Any = None,
    ) -> Placement:
        """Place new patterns by their nearest fitted points in embedding space.

        A pattern is unknown (-1) if it fails the gate, if noise wins the vote, if no behaviour (the leading one of the
        clusters' names) wins half of it, or if the pattern is further from the nearest member of the winning cluster
        than members of that cluster are from one another.

        Args:
            z: (n, d) embeddings from the same encoder.
            where: ``(layer, head)``, two int arrays (n,), as in :meth:`fit`. An atlas per head needs it; one that was
                fitted over all heads places by the embedding alone.
            encoder: the encoder that made the embeddings, as in :meth:`fit`; None takes the array as it is.
            representation: what the rows are, as in :meth:`fit`.
            structured: (n,) which rows pass the gate, as in :meth:`fit`.

        Raises:
            ConfigError: if d differs from that of the fitted rows, ``where`` or ``structured`` does not hold as many
                values as there are rows, or the encoder or the representation is not the atlas's own.
        """
        if encoder is not None:
            self.expect_encoder(encoder)
        z = stored(finite_embeddings(z))
        self.expect_representation(representation, z.shape[1])
        passing = passing_rows(structured, len(z))
        placed = self._reference.place(z, self.config.metric, heads_of_rows(where, len(z)), self._behaviours)
        return placed._replace(cluster=np.where(passing, placed.cluster, NOISE))

    def extend(self, z: Any, labels: Int[ndarray, " n"], coordinates: Float[ndarray, "n r"]) -> None:
        """Add points with known clusters to those among which patterns are placed; the fitted clusters do not change.

        This is for variants of fitted patterns that the encoder puts elsewhere: the first rows of a pattern are the
        pattern of a shorter prompt, and belong to the same cluster.

        Args:
            z: (n, d) embeddings from the same encoder.
            labels: (n,) their clusters; -1 for noise.
            coordinates: (n, r) their reduced coordinates.

        Raises:
            ConfigError: if the numbers of rows differ, or a label is not one of this atlas.
        """
        z = stored(finite_embeddings(z))
        if not len(z) == len(labels) == len(coordinates):
            raise ConfigError(f"expected as many labels and coordinates as embeddings, {len(z)}, got {len(labels)}")
        if len(labels) and not NOISE <= labels.min() <= labels.max() < len(self.clusters):
            raise ConfigError(f"expected clusters in -1-{len(self.clusters) - 1}, got {labels.min()}-{labels.max()}")
        self._reference = self._reference.extended(z, labels, coordinates)

    def forget_noise(self) -> None:
        """Leave noise out of the points among which patterns are placed; then clusters alone vote, and radii decide.

        This is for an atlas that others use: what its own models make no cluster of may be common in another.
        """
        self._reference = self._reference.without_noise()

    def save(self, folder: str | Path) -> list[str]:
        """Write ``clusters.parquet``, ``reference.safetensors`` and, last, ``atlas.json``.

        Returns:
            The files' names.
        """
        folder = Path(folder)
        write_table(folder / CLUSTERS_FILE, self.clusters)
        write_through(folder / _REFERENCE, lambda path: save_file(self._reference._asdict(), path))
        record = {
            "config": self.config.model_dump(mode="json"),
            "dropped": self.dropped,
            "unstructured": self.unstructured_,
            "models": list(self.models),
            "constants": self.constants,
            "encoder": self.encoder,
            "representation": self.representation,
        }
        write_json(folder / ATLAS_FILE, record)
        return [CLUSTERS_FILE, _REFERENCE, ATLAS_FILE]

    @classmethod
    def load(cls, folder: str | Path = "bundled") -> "Atlas":
        """Read a saved atlas, which does not contain ``labels_`` and ``coordinates_`` of the fitted rows.

        Args:
            folder: where it was saved, or "bundled".

        Raises:
            ArtifactError: if it is missing, damaged, or from a version that did not note encoder and representation.
            ConfigError: if it has settings or a representation that this version does not know.
        """
        folder = bundled.atlas() if str(folder) == "bundled" else Path(folder)
        record = read_json(folder / ATLAS_FILE)
        if not isinstance(record, dict) or not {"config", "dropped"} <= record.keys():
            raise ArtifactError(f"expected an atlas in {folder}, its {ATLAS_FILE} does not belong to one; fit it again")
        if not {"encoder", "representation", "unstructured"} <= record.keys():
            raise ArtifactError(
                f"expected an atlas that names its encoder and representation in {folder}, an earlier version made "
                "this one; make it again (apmae cluster EMBEDDINGS --overwrite, or Atlas.fit and save)"
            )
        try:
            tensors = load_file(folder / _REFERENCE)
        except (OSError, SafetensorError) as error:
            raise ArtifactError(f"expected an atlas in {folder}: {error}; fit it again") from None
        config = parse(AtlasConfig, record["config"], str(folder))
        clusters = read_table(folder / CLUSTERS_FILE)
        reference = Reference.from_tensors(tensors)
        if reference is None:
            raise ArtifactError(
                f"expected an atlas of this version in {folder}, its arrays do not fit together; fit it again"
            )
        kind = record["representation"]
        known = None if kind is None else parse_representation(kind)
        atlas = cls(config, clusters, reference, encoder=record["encoder"], representation=known)
        atlas.models, atlas.constants = tuple(record.get("models", ())), record.get("constants")
        atlas.dropped, atlas.unstructured_ = record["dropped"], record["unstructured"]
        return atlas

    def compare(self, other: "Atlas") -> Comparison:
        """Find this atlas's clusters again in another: of other models, languages, training steps or prompts.

        Args:
            other: an atlas of the same representation and, where both know theirs, encoder and descriptor constants.

        Raises:
            ConfigError: if one of them differs. Descriptors alone need no encoder, so theirs may.
        """
        own, theirs = self._reference, other._reference
        self.expect_representation(other.representation, theirs.embeddings.shape[1])
        if other.encoder is not None and self.representation != "descriptor":
            self.expect_encoder(other.encoder)
        if None not in (self.constants, other.constants) and self.constants != other.constants:
            raise ConfigError(
                f"expected an atlas of descriptors with the same constants ({str(self.constants)[:12]}), got one with "
                f"others ({str(other.constants)[:12]}); encode and cluster both with this version"
            )
        return compared(
            Fitted(self.clusters, own.labels, own.counts, other.place(own.embeddings).cluster),
            Fitted(other.clusters, theirs.labels, theirs.counts, self.place(theirs.embeddings).cluster),
        )

    def medoids(self) -> dict[int, int]:
        """The fitted row in the middle of each cluster (:func:`members.medoids` of the reduced coordinates).

        Raises:
            ConfigError: if the atlas was loaded, as for the next two.
        """
        return members.medoids(*self._rows("medoids"), seed=self.config.seed)

    def exemplars(self, count: int = 5) -> dict[int, Int[ndarray, " _"]]:
        """Up to ``count`` fitted rows of each cluster, from its centre to its edge (:func:`members.exemplars`)."""
        return members.exemplars(*self._rows("exemplars"), count, self.config.seed)

    def hull(self, cluster: int, count: int = 6) -> Int[ndarray, " k"]:
        """Up to ``count`` fitted rows of a cluster, the most distant on its convex hull (:func:`members.hull`)."""
        return members.hull(*self._rows("hull"), cluster, count)

    def _rows(self, wanted: str) -> tuple[Float[ndarray, "n r"], Int[ndarray, " n"]]:
        if not len(self.labels_):
            raise ConfigError(
                "expected an atlas that was just fitted, a loaded one does not keep its rows; read coordinates and "
                f"cluster from points.parquet and call apmae.atlas.members.{wanted}(coordinates, cluster)"
            )
        return self.coordinates_, self.labels_

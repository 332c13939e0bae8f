"""``Atlas``: named clusters, fitted over embeddings, among which new patterns are placed. Saved without pickle."""

from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int
from numpy import ndarray

from apmae import bundled
from apmae.atlas import members
from apmae.atlas.compare import Comparison, Fitted, compared, expect_alike
from apmae.atlas.fitting import fit_rows
from apmae.atlas.names import (
    Measured,
    agreeing,
    behaviours_of,
    cluster_names,
    definitions,
    measured_of_rows,
    names_in,
    renamed,
)
from apmae.atlas.origins import joined, origins_of
from apmae.atlas.place import Placement, Reference
from apmae.atlas.rows import added_rows, heads_of_rows, passing_rows, prompts_of_rows, stored
from apmae.atlas.saved import read_atlas, write_atlas
from apmae.config import AtlasConfig, Representation, parse_representation
from apmae.errors import ConfigError
from apmae.schema import NOISE


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
        origins: ``schema.ORIGINS`` of the rows that ``Placement.exemplars`` names; None if nothing is known of them.
        unstructured_: how many rows the gate left out.
        fitted_: how many rows clusters were looked for in; 0 after loading. The others were placed among them.
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
        self.config, self._per_head = config, config.clusterer == "per_head"
        self.encoder = encoder
        self.representation: Representation | None = representation
        self.models: tuple[str, ...] = ()
        self.constants: str | None = None
        self.origins: pa.Table | None = None
        self.unstructured_ = self.fitted_ = 0
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
        prompts: Any = None,
        origins: Any = None,
    ) -> "Atlas":
        """Reduce, cluster, filter, name (paper section 5).

        Args:
            z: (n, d) embeddings, array or CPU tensor.
            seed: for UMAP and the choice of reference points; None takes the configuration's.
            where: ``(layer, head)``, two int arrays (n,): the head of each row. Clusters per head need it; others are
                the same with or without it.
            config: settings; ``config.PRESETS`` has the paper's. Table 4 needs those and ``num_heads``.
            num_heads: heads of the whole language model, which scale the smallest cluster; None: 5 members.
            measured: scores of the same rows; without them clusters are called "cluster 0", "cluster 1", ...
            encoder: the encoder that made the embeddings: an ``APMAE``, or its fingerprint, which is among the inputs
                in the manifest of embeddings. The atlas then refuses embeddings of other encoders. None takes the array
                as it is; then only the width of later embeddings is checked.
            representation: what the rows are, "joint", "descriptor" or "cls" (``apmae.represent``). The atlas then
                refuses rows of another one, and ``apmae.tag`` makes those that fit. None: only their width is checked.
            structured: (n,) booleans: rows that fail the gate (``patterns/gate.py``) are in no cluster, and the fit
                does not see them. None: all pass.
            prompts: (n,) int, the prompt of each row: clusters that half of the prompts do not show are unstable. None:
                rows are halved instead, and copies of a pattern may be in both halves.
            origins: columns of ``schema.ORIGINS`` by name, each one text or one value per row, to know exemplars by.
                Those that are not given follow from ``where`` and ``prompts``.

        Clusters are looked for among at most ``config.fit_points`` rows, fewer where memory is short (``fitted_``); the
        others are placed among them.

        Raises:
            ConfigError: if there are fewer than two rows that pass, some are not finite or beyond fp16's range,
                ``where``, ``measured``, ``structured``, ``prompts`` or ``origins`` does not hold as many values, or
                there is no such representation.
        """
        config = config or AtlasConfig()
        kind = None if representation is None else parse_representation(representation)
        config = config if seed is None else config.model_copy(update={"seed": int(seed)})
        z = stored(z, clip=False)
        if len(z) < 2:
            raise ConfigError(f"expected at least 2 embeddings to fit an atlas, got {len(z)}; encode more prompts")
        heads, passing = heads_of_rows(where, len(z)), passing_rows(structured, len(z))
        prompts = prompts_of_rows(prompts, len(z))
        origins = origins_of(origins, heads, prompts, len(z))
        measured = measured_of_rows(measured, len(z), by_kind=config.by_kind)
        if passing.sum() < 2:
            raise ConfigError(
                f"expected at least 2 patterns with structure to fit an atlas, got {int(passing.sum())} of {len(z)}; "
                "rows of the others could have been shuffled: look at some (apmae show)"
            )
        fitted = fit_rows(z, passing, config, heads=heads, num_heads=num_heads, measured=measured, prompts=prompts)
        atlas = cls(
            config,
            fitted.clusters,
            fitted.reference,
            encoder=None if encoder is None else fingerprint_of(encoder),
            representation=kind,
        )
        atlas.labels_, atlas.coordinates_ = fitted.labels, fitted.coordinates
        atlas.fitted_, atlas.unstructured_ = fitted.rows, int((~passing).sum())
        atlas.dropped, atlas.origins = fitted.dropped, origins
        return atlas

    @property
    def names(self) -> dict[int, str]:
        """Name of each cluster; -1 is "unknown"."""
        return cluster_names(self.clusters)

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
        measured: Measured | None = None,
        unseen: bool = False,
    ) -> Placement:
        """Place new patterns by their nearest fitted points in embedding space.

        A pattern is unknown (-1) if it fails the gate, if noise wins the vote, if no behaviour (the leading one of the
        clusters' names) wins half of it, or if the pattern is further from the nearest member of the winning cluster
        than members of that cluster are from one another; ``Placement.reason`` says why. The first placement prepares
        a search, which later ones use again.

        Args:
            z: (n, d) embeddings from the same encoder.
            where: ``(layer, head)``, two int arrays (n,), as in :meth:`fit`. An atlas per head needs it; one that was
                fitted over all heads places by the embedding alone.
            encoder: the encoder that made the embeddings, as in :meth:`fit`; None takes the array as it is.
            representation: what the rows are, as in :meth:`fit`.
            structured: (n,) which rows pass the gate, as in :meth:`fit`.
            measured: scores of the same rows. Then a pattern is in no cluster whose kinds are not true of it.
            unseen: whether the patterns are of a model that the atlas was not fitted on. Then the behaviour that wins
                the vote has to be the one that leads the pattern's own name. Without ``measured`` nobody knows that;
                then it has to win 0.7 of the vote.

        Raises:
            ConfigError: if d differs from that of the fitted rows, ``where``, ``structured`` or ``measured`` does not
                hold as many values as there are rows, or the encoder or the representation is not the atlas's own.
        """
        if encoder is not None:
            self.expect_encoder(encoder)
        z = stored(z)
        self.expect_representation(representation, z.shape[1])
        passing, heads = passing_rows(structured, len(z)), heads_of_rows(where, len(z), needed=self._per_head)
        measured = measured_of_rows(measured, len(z))
        true = None if measured is None else agreeing(definitions(self.clusters), measured, leading=unseen)
        placed = self._reference.place(z, self.config.metric, heads, behaviours_of(self.clusters), true, unseen=unseen)
        placed.cluster[~passing], placed.reason[~passing] = NOISE, "structure"
        for values, nothing in zip(placed[-4:-1], (-1, NOISE, np.inf), strict=True):  # exemplars
            values[~passing | (self.origins is None)] = nothing
        return placed

    def names_of(self, clusters: Int[ndarray, " n"], measured: Measured) -> list[str]:
        """The name of each pattern: that of its cluster, without qualifiers that are not true of this pattern.

        Args:
            clusters: from :meth:`place`; -1 is "unknown".
            measured: scores of the same patterns.

        Raises:
            ConfigError: if they are not of as many patterns.
        """
        measured_of_rows(measured, len(clusters))
        return names_in(self.clusters, clusters, measured)

    def rename(self, names: dict[int, str]) -> None:
        """Call clusters by names of your own; ``names.json`` beside a saved atlas does the same.

        Args:
            names: by the clusters' numbers.

        Raises:
            ConfigError: if there is no such cluster, or two would have the same name.
        """
        self.clusters = renamed(self.clusters, names)

    def extend(self, z: Any, labels: Any, coordinates: Any, *, where: Any = None, origins: Any = None) -> None:
        """Add points with known clusters to those among which patterns are placed; the fitted clusters do not change.

        This is for variants of fitted patterns that the encoder puts elsewhere: the first rows of a pattern are the
        pattern of a shorter prompt, and belong to the same cluster.

        Args:
            z: (n, d) embeddings from the same encoder.
            labels: (n,) int, their clusters; -1 for noise.
            coordinates: (n, r) their reduced coordinates, finite.
            where: ``(layer, head)``, two int arrays (n,), as in :meth:`fit`. An atlas per head needs it.
            origins: as in :meth:`fit`.

        Raises:
            ConfigError: if the numbers of rows differ, embeddings or coordinates are of another width than the fitted
                ones, a label is not one of this atlas, or it is of another head.
        """
        z, width = stored(z), self._reference.coordinates.shape[1]
        self.expect_representation(None, z.shape[1])
        labels, coordinates = added_rows(labels, coordinates, len(z), width, len(self.clusters))
        heads = heads_of_rows(where, len(z), needed=self._per_head)
        last, own = int(self._reference.origin.max(initial=-1)), heads if self._per_head else None
        first = last + 1 if self.origins is None else len(self.origins)
        self.origins = joined(self.origins, first, origins_of(origins, heads, None, len(z)), len(z))
        self._reference = self._reference.extended(z, labels, coordinates, own, first + np.arange(len(z)))

    def save(self, folder: str | Path) -> list[str]:
        """Write ``clusters.parquet``, ``reference.safetensors``, ``origins.parquet`` and, last, ``atlas.json``.

        Returns:
            The files' names.
        """
        record = {
            "config": self.config.model_dump(mode="json"),
            "dropped": self.dropped,
            "unstructured": self.unstructured_,
            "models": list(self.models),
            "constants": self.constants,
            "encoder": self.encoder,
            "representation": self.representation,
        }
        return write_atlas(Path(folder), record, self.clusters, self._reference, self.origins)

    @classmethod
    def load(cls, folder: str | Path = "bundled") -> "Atlas":
        """Read a saved atlas, which does not contain ``labels_`` and ``coordinates_`` of the fitted rows. Clusters that
        ``names.json`` in the folder gives names, {"3": "my name"}, are called by these.

        Args:
            folder: where it was saved, or "bundled".

        Raises:
            ArtifactError: if it is missing, damaged, or from another version.
            ConfigError: if it has settings or a representation that this version does not know.
        """
        folder = bundled.atlas() if str(folder) == "bundled" else Path(folder)
        record, config, clusters, reference, origins = read_atlas(folder)
        kind = record["representation"]
        known = None if kind is None else parse_representation(kind)
        atlas = cls(config, clusters, reference, encoder=record["encoder"], representation=known)
        atlas.models, atlas.constants = tuple(record.get("models", ())), record.get("constants")
        atlas.dropped, atlas.unstructured_, atlas.origins = record["dropped"], record["unstructured"], origins
        return atlas

    def compare(self, other: "Atlas") -> Comparison:
        """Find this atlas's clusters again in another: of other models, languages, training steps or prompts.

        Two atlases of clusters per head are matched head by head: clusters of (layer, head) with those of the same
        layer and head, which says something of two trainings, languages or halves, but not of two models.

        Args:
            other: an atlas of the same representation and, where both know theirs, encoder and descriptor constants;
                of clusters per head if this one is, and only then.

        Raises:
            ConfigError: if one of them differs. Descriptors alone need no encoder, so theirs may.
        """
        own, theirs = self._reference, other._reference
        self.expect_representation(other.representation, theirs.embeddings.shape[1])
        if other.encoder is not None and self.representation != "descriptor":
            self.expect_encoder(other.encoder)
        expect_alike((self.config.clusterer, other.config.clusterer), (self.constants, other.constants))
        there = other.place(own.embeddings, where=own.where).cluster
        ours = Fitted(self.clusters, own.labels, own.counts, there)
        here = self.place(theirs.embeddings, where=theirs.where).cluster
        return compared(ours, Fitted(other.clusters, theirs.labels, theirs.counts, here))

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

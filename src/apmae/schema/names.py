"""Format, labels, token kinds, scores, and names of tables and files."""

FORMAT = 5
"""Raised when a table changes shape, or when every manifest does: artifacts of another format are refused, not misread.
A stage may gain settings without raising it: an artifact made with other settings asks for ``--overwrite``."""

NOISE = -1
"""Label of a pattern that is in no cluster."""

ENCODED = ("embeddings", "prompts", "exemplars")
"""The tables of the encode stage, in shards: ``embeddings()``, ``ENCODED_PROMPTS`` and ``EXEMPLARS``."""
TAGGED = ("tags", "prompts")
"""The tables of the tag stage, in shards: ``CORPUS_TAGS`` and ``ENCODED_PROMPTS``."""
SUMMARY_FILE = "summary.json"
PAGE_FILE = "index.html"
RECONSTRUCTIONS_FILE = "reconstructions.parquet"
POINTS_FILE = "points.parquet"
CLUSTERS_FILE = "clusters.parquet"
NAMES_FILE = "names.json"
ORIGINS_FILE = "origins.parquet"
ATLAS_FILE = "atlas.json"
LOCATIONS_FILE = "locations.parquet"
FOREIGN_FILE = "foreign.parquet"
PREDICTION_FILE = "prediction.parquet"
PREDICTION_TASKS_FILE = "tasks.parquet"
CALIBRATION_FILE = "calibration.parquet"
COVERAGE_FILE = "coverage.parquet"
FORECASTS_FILE = "forecasts.parquet"

KINDS = (
    "sentinel",
    "word",
    "keyword",
    "number",
    "string",
    "operator",
    "open_bracket",
    "close_bracket",
    "semicolon",
    "separator",
    "newline",
    "space",
    "other",
)
"""Token kinds: scores say which of them a head looks at and which it looks from. A kind's code is its index here."""

SCORES = (
    "first_token",
    "previous",
    "self",
    "local",
    "duplicate",
    "induction",
    "retrieval",
    "columns",
    "blocks",
    "uniform",
    "entropy",
    "local_width",
    "later_sink",
)
"""Hand-made scores of a pattern, defined in ``patterns/scores.py``: shares in [0, 1], except ``entropy`` (nats) and
``local_width`` (tokens)."""

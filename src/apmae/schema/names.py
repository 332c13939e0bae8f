"""Format, labels, token kinds, scores, and names of tables and files."""

FORMAT = 5
"""Raised when a table changes shape, or when every manifest does: artifacts of another format are refused, not misread.
A stage may gain settings without raising it: an artifact made with other settings asks for ``--overwrite``."""

NOISE = -1
"""Label of a pattern that is in no cluster."""

ENCODED = ("embeddings", "prompts", "exemplars")
"""The tables of the encode stage, in shards: ``embeddings()``, ``ENCODED_PROMPTS`` and ``EXEMPLARS``."""
TAGGED = ("tags", "prompts", "embeddings")
"""The tables of the tag stage, in shards: ``CORPUS_TAGS``, ``ENCODED_PROMPTS`` and, if kept, ``embeddings()``."""
ATTENDED_TABLES = ("attended", "texts")
"""The tables of the top stage, in shards: ``ATTENDED`` and ``TOP_TEXTS``."""
ANSWERED = ("heads", "prompts", "states")
"""The tables of the answers stage, in shards: ``answer_heads()``, ``ENCODED_PROMPTS`` and ``answer_states()``."""
FILTERS = ("attribution", "flow", "last_row", "tags", "random")
"""What can choose the heads that the circuit stage patches (``lm/patching.py``)."""
FILTERED = ("pairs", "scores")
"""Tables of the circuit stage, in shards: ``CIRCUIT_PAIRS`` and ``CIRCUIT_SCORES``."""
PATCHED = ("effects",)
"""Likewise: ``CIRCUIT_EFFECTS``."""
CONNECTED = ("links",)
"""Likewise: ``CIRCUIT_EDGE_EFFECTS``."""
CIRCUIT_FILE = "circuit.parquet"
CIRCUIT_RECALL_FILE = "recall.parquet"
CIRCUIT_TASKS_FILE = "tasks.parquet"
CIRCUIT_EDGES_FILE = "edges.parquet"
CIRCUIT_PICTURE = "circuit.png"
ABLATED = ("unedited", "prompts")
"""The tables of the ablate stage that are in shards of all prompts: ``UNEDITED`` and ``ENCODED_PROMPTS``."""
HEADS_REMOVED = ("effects",)
"""That in shards of all prompts which are made after them: ``EFFECTS``."""
SETS_REMOVED = ("removed",)
"""That in shards of the measuring half: ``REMOVED``."""
MEANS_FILE = "means.safetensors"
HEAD_SETS_FILE = "sets.parquet"
HEAD_EFFECTS_FILE = "heads.parquet"
RELIABILITY_FILE = "reliability.parquet"
ABLATION_FILE = "ablation.parquet"
ABLATION_TASKS_FILE = "tasks.parquet"
READINGS = ("readings",)
"""The table of the prune stage that is in shards of the ranking half: ``HEAD_READINGS``."""
ALONE_REMOVED = ("alone",)
"""That of heads removed alone there: ``REMOVED``, with the head's number as the set."""
RANKED_FILE = "rankings.parquet"
PRUNED_SETS_FILE = "sets.parquet"
PRUNING_FILE = "pruning.parquet"
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
CORPORA_FILES = ("locations.parquet", "tasks.parquet", "corpora.parquet", "foreign.parquet")
"""Of several corpora: ``CORPORA_LOCATIONS``, ``CORPORA_TASKS``, ``CORPORA`` and ``CORPORA_FOREIGN``."""
PREDICTION_FILE = "prediction.parquet"
PREDICTION_TASKS_FILE = "tasks.parquet"
CALIBRATION_FILE = "calibration.parquet"
COVERAGE_FILE = "coverage.parquet"
TOP_FILE = "top.parquet"
TOP_HEADS_FILE = "heads.parquet"
FORECAST = ("forecasts", "fits")
"""The tables of the predict stage that are in shards, one per fold: ``FORECASTS`` and ``FITS``."""
PREDICTOR_FILES = ("predictor.json", "predictor.safetensors")
"""What the predict stage saves to predict single lines."""

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

ROW_NUMBERS = (
    "entropy",
    "largest",
    "first",
    "self",
    "prefix",
    "suffix",
    "sentinels",
    "newline",
    "within_1",
    "within_4",
    "within_16",
    *(f"kind_{kind}" for kind in KINDS),
)
"""Numbers of a head's row at the completion position, defined in ``patterns/answer_row.py``: shares in [0, 1], except
``entropy`` (nats)."""

COPIES = ("predicted", "after_last", "predicted_after_last", "last")
"""Shares of the same row that go to tokens that could be copied from, defined there too."""

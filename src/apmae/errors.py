"""The errors that a user can cause. A message says what was expected, what was found and what to do next."""


class ApmaeError(Exception):
    """Base of every error that apmae raises on purpose; the command line prints it on one line and exits with 2."""


class ConfigError(ApmaeError, ValueError):
    """A setting is out of range, unknown, or does not fit another setting."""


class SourceError(ApmaeError):
    """Source files or prompts cannot be read: missing, empty, not UTF-8, or a malformed line."""


class MalformedError(SourceError):
    """Lines of a prompts file are not prompts.

    Args:
        path: the file.
        mistakes: what is wrong, one entry per mistake.
        more: whether reading stopped early, so that there may be more mistakes.
    """

    def __init__(self, path: str, mistakes: list[str], *, more: bool = False) -> None:
        self.mistakes = mistakes
        self.more = more
        count = f"{len(mistakes)} mistakes{' and perhaps more' if more else ''}: " if len(mistakes) > 1 else ""
        self.heading = f"{path}: {count}".strip()
        super().__init__(f"{path}: {count}{'; '.join(mistakes)}")


class ParserError(ApmaeError):
    """A process that parses source files cannot be started."""


class ModelError(ApmaeError):
    """A language model or an AP-MAE cannot be loaded, or is of a kind that apmae does not support."""


class CaptureError(ApmaeError):
    """Attention cannot be captured from this forward pass, or does not fit the pattern size."""


class ArtifactError(ApmaeError):
    """An artifact on disk is missing or damaged, or was made with another configuration."""


class TrainingError(ApmaeError):
    """Training stopped itself, for instance because the loss was no longer finite."""


class DependencyError(ApmaeError, ImportError):
    """A library that only one feature needs is not installed; the message names the extra that installs it."""


def first_line(error: Exception) -> str:
    """What a library's error says, on one line of at most 300 characters."""
    lines = str(error).strip().splitlines()[:2]
    return " ".join(" ".join(lines).split())[:300] or type(error).__name__

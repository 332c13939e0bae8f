"""Which characters of a text each token holds, exactly. Torch-free."""

from collections.abc import Callable
from copy import deepcopy
from typing import TYPE_CHECKING

from tokenizers import processors

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def offsets_of(tokenizer: "Tokenizer") -> "Callable[[str], list[tuple[int, int]]]":
    """A function from a text to the first and past-the-end character of each of its tokens.

    What a tokenizer says itself is not always all: some leave the blanks of a token out of its offsets
    (``trim_offsets``), and one that composes characters (NFC, as Qwen's) leaves out what it joined to the one before, so
    that a span would end between a letter and its accent. Here every character belongs to some token, to several where
    they share its bytes, and tokens are in order: both ends never fall.
    """
    plain = deepcopy(tokenizer)
    # Trimming is the work of this last step, which otherwise only adds special tokens.
    plain.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])

    def offsets(text: str) -> list[tuple[int, int]]:
        found = plain.encode(text, add_special_tokens=False).offsets
        claimed = bytearray(len(text))
        for start, end in found:
            claimed[start:end] = b"\x01" * (end - start)
        # What no token claims belongs with the character before: it was joined to it, or dropped behind it.
        follows = [len(text)] * (len(text) + 1)
        for place in reversed(range(len(text))):
            follows[place] = place if claimed[place] else follows[place + 1]
        exact = []
        begun = reached = 0
        for start, end in found:
            begun = max(begun, start if start > follows[0] else 0)
            reached = max(reached, begun, follows[end])
            exact.append((begun, reached))
        return exact

    return offsets

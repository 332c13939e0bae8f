"""Which characters of a text each token holds, exactly. Torch-free.

Tokenizers that trim blanks or compose accents leave characters out. Without these, random spans would lose their
first blank, or end between a letter and its accent.
"""

from collections.abc import Callable
from copy import deepcopy
from typing import TYPE_CHECKING

from tokenizers import processors

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def offsets_of(tokenizer: "Tokenizer") -> "Callable[[str], list[tuple[int, int]]]":
    """A function from a text to the first and past-the-end character of each of its tokens.

    The offsets that a tokenizer gives can have gaps. Some leave out the blanks of a token (``trim_offsets``); one that
    composes characters (NFC, like Qwen's) leaves out an accent that it joined to its letter, and a span would end
    between the two. Here every character belongs to a token, or to several that share its bytes. Tokens are in order:
    neither their starts nor their ends ever decrease.
    """
    plain = deepcopy(tokenizer)
    # Trimming is the work of this last step, which otherwise only adds special tokens.
    plain.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])

    def offsets(text: str) -> list[tuple[int, int]]:
        found = plain.encode(text, add_special_tokens=False).offsets
        claimed = bytearray(len(text))
        for start, end in found:
            claimed[start:end] = b"\x01" * (end - start)
        follows = list(range(len(text) + 1))
        if 0 in claimed:
            # What no token claims belongs to the character before: it was joined to that, or dropped after it.
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

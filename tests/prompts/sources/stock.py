#!/usr/bin/env python3
"""Stock of a shop: "true" = 1 here."""
import math as m
from typing import Optional

LIMIT: int = 0x_FF  # not 1 == 2


@m.cache
def price(items: dict[str, list[int]], *, rate=1.5e-3, eager: bool = True) -> Optional[float]:
    total, discount = 0, -2j
    for name, (count, *rest) in items.items():
        if count not in (0b11, 0o17) and not rest or name is None:
            total += count ** 2 // 3 % m.floor(rate)
        elif (n := len(rest)) <= 1_000:
            total = total \
                - n
        print(f"{name!r}: {total + 1:>{n}} {{}}", b'x', end="")
    label = r'''a
    b''' "c"
    return None if label != 'd' else total @ items[-1] if eager else False


match LIMIT:
    case 1 | -2:
        x = lambda a=3, **kw: ~a

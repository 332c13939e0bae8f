#!/usr/bin/env node
import { sum } from "./sum.js"; // a = true

const RATE = 0x1F + .5e3 - 1_000n;
let { name = 'none', ...rest } = options;

class Cart extends Map {
  #items = [];
  static limit = 0b11;

  add(item, count = 1) {
    this.#items[item.id] ??= { item, "key": -count };
    outer: for (const k in rest) if (k in this || !(k instanceof Map)) break outer;
    return this.total ** 2 >= 10 && count++ !== undefined ? /a=[)\]]/g.test(name) : false;
  }
}

const line = `total: ${sum(1, RATE) * 2}
  ${"}"} end`;

export const View = ({ cart }) => (
  <div className="cart" hidden={true}>
    Total: {cart.total} items
    <Row key={cart?.id ?? 0} {...rest} />
  </div>
);
x >>>= y === null;

enum Kind { Small = 1, Large = 0o17 }
type Pair<K, V = string> = Map<K, Array<V>>;

interface Item { readonly id: number; tags?: Set<'a' | "b">; }

export abstract class Store<T extends Item> {
  private items: Record<string, T[]> = {};
  static count = 0;

  constructor(public name: string = `store ${Kind.Small}`, private flag?: boolean) {}

  find(id: number, deep = true): T | undefined {
    const found = this.items[id]!.filter((item: T) => item.id === id && !deep);
    return found.length > 1_0 ? found[found.length - 1] as T : <T>found[0];
  }
}

for (let i = 0, n = 2.5e3; i < n; i += 1) Store.count++;
let big = 10n satisfies bigint, ok: boolean = false;

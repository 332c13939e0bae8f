package granary;

import java.util.Comparator;
import java.util.Iterator;
import java.util.NoSuchElementException;
import java.util.function.BiConsumer;

/**
 * Ordered map on a skip list. Every link carries the number of bottom-level steps it jumps, which
 * makes rank and select queries logarithmic along with the usual lookups.
 */
public final class SkipList<K, V> {

    private static final int MAX_LEVEL = 24;

    private static final class Node<K, V> {
        final K key;
        V value;
        final Node<K, V>[] next;
        final int[] span;

        @SuppressWarnings("unchecked")
        Node(K key, V value, int height) {
            this.key = key;
            this.value = value;
            this.next = (Node<K, V>[]) new Node<?, ?>[height];
            this.span = new int[height];
        }

        int height() {
            return next.length;
        }
    }

    private final Comparator<? super K> order;
    private final Node<K, V> head = new Node<>(null, null, MAX_LEVEL);
    private int level = 1;
    private int size = 0;
    private long seed;

    public SkipList(Comparator<? super K> order) {
        this(order, 0x71C3_0A9DL);
    }

    public SkipList(Comparator<? super K> order, long seed) {
        this.order = order;
        this.seed = seed == 0 ? 1 : seed;
    }

    public static <K extends Comparable<? super K>, V> SkipList<K, V> natural() {
        return new SkipList<>(Comparator.naturalOrder());
    }

    public V get(K key) {
        Node<K, V> node = firstAtLeast(key);
        return node != null && order.compare(node.key, key) == 0 ? node.value : null;
    }

    public boolean containsKey(K key) {
        Node<K, V> node = firstAtLeast(key);
        return node != null && order.compare(node.key, key) == 0;
    }

    /** @return the value that was there before, or null when the key is new */
    public V put(K key, V value) {
        Node<K, V>[] trail = newTrail();
        int[] position = new int[MAX_LEVEL];
        Node<K, V> at = head;
        for (int i = level - 1; i >= 0; i--) {
            position[i] = i == level - 1 ? 0 : position[i + 1];
            while (at.next[i] != null && order.compare(at.next[i].key, key) < 0) {
                position[i] += at.span[i];
                at = at.next[i];
            }
            trail[i] = at;
        }

        Node<K, V> hit = at.next[0];
        if (hit != null && order.compare(hit.key, key) == 0) {
            V old = hit.value;
            hit.value = value;
            return old;
        }

        int height = randomHeight();
        for (; level < height; level++) {
            trail[level] = head;
            head.span[level] = size;
        }
        Node<K, V> node = new Node<>(key, value, height);
        for (int i = 0; i < height; i++) {
            Node<K, V> before = trail[i];
            int skipped = position[0] - position[i];
            node.next[i] = before.next[i];
            node.span[i] = before.span[i] - skipped;
            before.next[i] = node;
            before.span[i] = skipped + 1;
        }
        for (int i = height; i < level; i++) {
            trail[i].span[i]++;
        }
        size++;
        return null;
    }

    public V remove(K key) {
        Node<K, V>[] trail = newTrail();
        Node<K, V> at = head;
        for (int i = level - 1; i >= 0; i--) {
            while (at.next[i] != null && order.compare(at.next[i].key, key) < 0) {
                at = at.next[i];
            }
            trail[i] = at;
        }
        Node<K, V> victim = at.next[0];
        if (victim == null || order.compare(victim.key, key) != 0) {
            return null;
        }
        for (int i = 0; i < level; i++) {
            Node<K, V> before = trail[i];
            if (i < victim.height()) {
                before.span[i] += victim.span[i] - 1;
                before.next[i] = victim.next[i];
            } else {
                before.span[i]--;
            }
        }
        while (level > 1 && head.next[level - 1] == null) {
            level--;
        }
        size--;
        return victim.value;
    }

    /** Number of keys strictly below the given one. */
    public int rank(K key) {
        int below = 0;
        Node<K, V> at = head;
        for (int i = level - 1; i >= 0; i--) {
            while (at.next[i] != null && order.compare(at.next[i].key, key) < 0) {
                below += at.span[i];
                at = at.next[i];
            }
        }
        return below;
    }

    public K select(int index) {
        if (index < 0 || index >= size) {
            throw new IndexOutOfBoundsException("no element at rank " + index + " of " + size);
        }
        int remaining = index + 1;
        Node<K, V> at = head;
        for (int i = level - 1; i >= 0 && remaining > 0; i--) {
            while (at.next[i] != null && at.span[i] <= remaining) {
                remaining -= at.span[i];
                at = at.next[i];
            }
        }
        return at.key;
    }

    public void forEachInRange(K from, K until, BiConsumer<? super K, ? super V> action) {
        Node<K, V> at = firstAtLeast(from);
        while (at != null && order.compare(at.key, until) < 0) {
            action.accept(at.key, at.value);
            at = at.next[0];
        }
    }

    public Iterator<K> keys() {
        return new Iterator<K>() {
            private Node<K, V> at = head.next[0];

            @Override
            public boolean hasNext() {
                return at != null;
            }

            @Override
            public K next() {
                if (at == null) {
                    throw new NoSuchElementException();
                }
                K key = at.key;
                at = at.next[0];
                return key;
            }
        };
    }

    public int size() {
        return size;
    }

    public boolean isEmpty() {
        return size == 0;
    }

    private Node<K, V> firstAtLeast(K key) {
        Node<K, V> at = head;
        for (int i = level - 1; i >= 0; i--) {
            while (at.next[i] != null && order.compare(at.next[i].key, key) < 0) {
                at = at.next[i];
            }
        }
        return at.next[0];
    }

    // Two bits per promotion, so a quarter of the nodes reach each higher level.
    private int randomHeight() {
        seed ^= seed << 13;
        seed ^= seed >>> 7;
        seed ^= seed << 17;
        int zeros = Long.numberOfTrailingZeros(seed | (1L << 46));
        return Math.min(1 + zeros / 2, MAX_LEVEL);
    }

    @SuppressWarnings("unchecked")
    private Node<K, V>[] newTrail() {
        return (Node<K, V>[]) new Node<?, ?>[MAX_LEVEL];
    }
}

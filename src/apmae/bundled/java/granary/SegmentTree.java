package granary;

import java.util.function.LongBinaryOperator;

/**
 * Range aggregates over a fixed-length array of longs, with lazily propagated range additions.
 */
public final class SegmentTree {

    public enum Aggregate {
        SUM(0L, Long::sum) {
            @Override
            long shifted(long current, long delta, int width) {
                return current + delta * width;
            }
        },
        MIN(Long.MAX_VALUE, Math::min),
        MAX(Long.MIN_VALUE, Math::max);

        private final long neutral;
        private final LongBinaryOperator op;

        Aggregate(long neutral, LongBinaryOperator op) {
            this.neutral = neutral;
            this.op = op;
        }

        long shifted(long current, long delta, int width) {
            return current + delta;
        }
    }

    private final Aggregate kind;
    private final int length;
    private final long[] tree;
    private final long[] pending;

    public SegmentTree(Aggregate kind, long... initial) {
        if (initial.length == 0) {
            throw new IllegalArgumentException("segment tree needs at least one element");
        }
        this.kind = kind;
        this.length = initial.length;
        int leaves = Integer.highestOneBit(Math.max(1, length - 1)) << 1;
        this.tree = new long[2 * leaves];
        this.pending = new long[2 * leaves];
        build(1, 0, length - 1, initial);
    }

    /** Adds {@code delta} to every element from {@code lo} to {@code hi}, both inclusive. */
    public void add(int lo, int hi, long delta) {
        checkRange(lo, hi);
        if (delta != 0) {
            add(1, 0, length - 1, lo, hi, delta);
        }
    }

    public void set(int index, long value) {
        checkRange(index, index);
        int node = 1;
        int left = 0;
        int right = length - 1;
        while (left < right) {
            push(node, left, right);
            int mid = (left + right) >>> 1;
            if (index <= mid) {
                right = mid;
                node = 2 * node;
            } else {
                left = mid + 1;
                node = 2 * node + 1;
            }
        }
        tree[node] = value;
        while ((node >>= 1) >= 1) {
            tree[node] = kind.op.applyAsLong(tree[2 * node], tree[2 * node + 1]);
        }
    }

    public long query(int lo, int hi) {
        checkRange(lo, hi);
        return query(1, 0, length - 1, lo, hi);
    }

    public long get(int index) {
        return query(index, index);
    }

    /**
     * First index at or after {@code from} whose element is at least {@code threshold}, or -1.
     * Only meaningful on a tree of maxima.
     */
    public int firstAtLeast(int from, long threshold) {
        if (kind != Aggregate.MAX) {
            throw new UnsupportedOperationException("firstAtLeast on a " + kind + " tree");
        }
        if (from >= length) {
            return -1;
        }
        return search(1, 0, length - 1, Math.max(from, 0), threshold);
    }

    public int length() {
        return length;
    }

    private void build(int node, int left, int right, long[] initial) {
        if (left == right) {
            tree[node] = initial[left];
            return;
        }
        int mid = (left + right) >>> 1;
        build(2 * node, left, mid, initial);
        build(2 * node + 1, mid + 1, right, initial);
        tree[node] = kind.op.applyAsLong(tree[2 * node], tree[2 * node + 1]);
    }

    private void add(int node, int left, int right, int lo, int hi, long delta) {
        if (lo <= left && right <= hi) {
            apply(node, delta, right - left + 1);
            return;
        }
        push(node, left, right);
        int mid = (left + right) >>> 1;
        if (lo <= mid) {
            add(2 * node, left, mid, lo, hi, delta);
        }
        if (hi > mid) {
            add(2 * node + 1, mid + 1, right, lo, hi, delta);
        }
        tree[node] = kind.op.applyAsLong(tree[2 * node], tree[2 * node + 1]);
    }

    private long query(int node, int left, int right, int lo, int hi) {
        if (hi < left || right < lo) {
            return kind.neutral;
        }
        if (lo <= left && right <= hi) {
            return tree[node];
        }
        push(node, left, right);
        int mid = (left + right) >>> 1;
        long a = query(2 * node, left, mid, lo, hi);
        long b = query(2 * node + 1, mid + 1, right, lo, hi);
        return kind.op.applyAsLong(a, b);
    }

    private int search(int node, int left, int right, int from, long threshold) {
        if (right < from || tree[node] < threshold) {
            return -1;
        }
        if (left == right) {
            return left;
        }
        push(node, left, right);
        int mid = (left + right) >>> 1;
        int hit = search(2 * node, left, mid, from, threshold);
        return hit >= 0 ? hit : search(2 * node + 1, mid + 1, right, from, threshold);
    }

    private void push(int node, int left, int right) {
        long delta = pending[node];
        if (delta == 0L) {
            return;
        }
        int mid = (left + right) >>> 1;
        apply(2 * node, delta, mid - left + 1);
        apply(2 * node + 1, delta, right - mid);
        pending[node] = 0L;
    }

    private void apply(int node, long delta, int width) {
        tree[node] = kind.shifted(tree[node], delta, width);
        pending[node] += delta;
    }

    private void checkRange(int lo, int hi) {
        if (lo < 0 || hi >= length || lo > hi) {
            throw new IndexOutOfBoundsException(
                    String.format("range %d..%d does not fit in 0..%d", lo, hi, length - 1));
        }
    }
}

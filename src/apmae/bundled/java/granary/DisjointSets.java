package granary;

import java.util.Arrays;
import java.util.BitSet;

/** Union by size over the integers 0..n-1, with an undo log for speculative merges. */
public final class DisjointSets {

    // negative: a root, holding minus the size of its set; otherwise the parent
    private int[] link;
    // absorbed root and the size it had, two slots for every successful union
    private int[] log = new int[32];
    private int logSize = 0;
    private int groups;

    public DisjointSets(int n) {
        if (n < 0) {
            throw new NegativeArraySizeException("element count " + n);
        }
        link = new int[n];
        Arrays.fill(link, -1);
        groups = n;
    }

    public int addElement() {
        int id = link.length;
        link = Arrays.copyOf(link, id + 1);
        link[id] = -1;
        groups++;
        return id;
    }

    public int find(int x) {
        // No path compression: it would invalidate the undo log.
        while (link[x] >= 0) {
            x = link[x];
        }
        return x;
    }

    public boolean connected(int a, int b) {
        return find(a) == find(b);
    }

    public int sizeOf(int x) {
        return -link[find(x)];
    }

    public boolean union(int a, int b) {
        int big = find(a);
        int small = find(b);
        if (big == small) {
            return false;
        }
        if (link[big] > link[small]) {
            int swap = big;
            big = small;
            small = swap;
        }
        link[big] += link[small];
        if (logSize == log.length) {
            log = Arrays.copyOf(log, logSize << 1);
        }
        log[logSize++] = small;
        log[logSize++] = -link[small];
        link[small] = big;
        groups--;
        return true;
    }

    /** A token for {@link #rollback}. */
    public int checkpoint() {
        return logSize;
    }

    public void rollback(int checkpoint) {
        if (checkpoint < 0 || checkpoint > logSize || (checkpoint & 1) != 0) {
            throw new IllegalArgumentException("stale checkpoint " + checkpoint);
        }
        while (logSize > checkpoint) {
            int absorbed = log[--logSize];
            int small = log[--logSize];
            link[link[small]] += absorbed;
            link[small] = -absorbed;
            groups++;
        }
    }

    public int groupCount() {
        return groups;
    }

    /** Labels every element with a dense group number, in order of first appearance. */
    public int[] labels() {
        int[] label = new int[link.length];
        int[] ofRoot = new int[link.length];
        BitSet named = new BitSet(link.length);
        int next = 0;
        for (int i = 0; i < link.length; i++) {
            int root = find(i);
            if (!named.get(root)) {
                named.set(root, true);
                ofRoot[root] = next++;
            }
            label[i] = ofRoot[root];
        }
        return label;
    }
}

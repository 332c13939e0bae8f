package cellar;

import java.io.IOException;
import java.util.Arrays;
import java.util.HashMap;
import java.util.Map;
import java.util.concurrent.atomic.LongAdder;

/**
 * Fixed-capacity page cache with clock eviction. A page that is pinned is never a victim; a page touched
 * since the hand last passed gets one more lap.
 */
public class PageCache {

    public interface PageStore {
        void readPage(long pageId, byte[] into) throws IOException;

        void writePage(long pageId, byte[] from) throws IOException;
    }

    public record Stats(long hits, long misses, long evictions, int dirty) {
        public double hitRatio() {
            long total = hits + misses;
            return total == 0 ? 0.0 : (double) hits / total;
        }
    }

    private static final byte REFERENCED = 1;
    private static final byte DIRTY = 1 << 1;
    private static final long EMPTY = -1L;

    private final PageStore store;
    private final byte[][] frames;
    private final long[] owner;
    private final int[] pins;
    private final byte[] flags;
    private final Map<Long, Integer> resident = new HashMap<>();
    private final LongAdder hits = new LongAdder();
    private final LongAdder misses = new LongAdder();
    private long evictions;
    private int hand;

    public PageCache(PageStore store, int capacity, int pageSize) {
        if (capacity < 2 || Integer.bitCount(pageSize) != 1) {
            throw new IllegalArgumentException("capacity " + capacity + ", page size " + pageSize);
        }
        this.store = store;
        this.frames = new byte[capacity][pageSize];
        this.owner = new long[capacity];
        this.pins = new int[capacity];
        this.flags = new byte[capacity];
        Arrays.fill(owner, EMPTY);
    }

    /** A pinned page. Closing it releases the pin but keeps the page resident. */
    public final class Pin implements AutoCloseable {
        private final int slot;
        private boolean released;

        private Pin(int slot) {
            this.slot = slot;
        }

        public byte[] data() {
            if (released) {
                throw new IllegalStateException("page already released");
            }
            return frames[slot];
        }

        public void markDirty() {
            synchronized (PageCache.this) {
                flags[slot] |= DIRTY;
            }
        }

        @Override
        public void close() {
            synchronized (PageCache.this) {
                if (!released) {
                    released = true;
                    pins[slot]--;
                }
            }
        }
    }

    public synchronized Pin acquire(long pageId) throws IOException {
        Integer found = resident.get(pageId);
        if (found != null) {
            hits.increment();
            pins[found]++;
            flags[found] |= REFERENCED;
            return new Pin(found);
        }

        misses.increment();
        int slot = claimSlot();
        store.readPage(pageId, frames[slot]);
        owner[slot] = pageId;
        pins[slot] = 1;
        flags[slot] = REFERENCED;
        resident.put(pageId, slot);
        return new Pin(slot);
    }

    private int claimSlot() throws IOException {
        int limit = frames.length * 2;
        for (int step = 0; step < limit; step++) {
            int slot = hand;
            hand = (hand + 1) % frames.length;
            if (pins[slot] > 0) {
                continue;
            }
            if ((flags[slot] & REFERENCED) != 0) {
                flags[slot] &= ~REFERENCED;
                continue;
            }
            if (owner[slot] != EMPTY) {
                writeBack(slot);
                resident.remove(owner[slot]);
                owner[slot] = EMPTY;
                evictions++;
            }
            return slot;
        }
        throw new IllegalStateException("all " + frames.length + " pages are pinned");
    }

    private boolean writeBack(int slot) throws IOException {
        if ((flags[slot] & DIRTY) == 0) {
            return false;
        }
        store.writePage(owner[slot], frames[slot]);
        flags[slot] &= ~DIRTY;
        return true;
    }

    public synchronized int flushAll() throws IOException {
        int written = 0;
        for (int slot = 0; slot < frames.length; slot++) {
            if (owner[slot] != EMPTY && writeBack(slot)) {
                written++;
            }
        }
        return written;
    }

    public synchronized Stats stats() {
        int dirty = 0;
        for (byte f : flags) {
            dirty += (f & DIRTY) >> 1;
        }
        return new Stats(hits.sum(), misses.sum(), evictions, dirty);
    }
}

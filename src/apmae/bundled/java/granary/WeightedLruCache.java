package granary;

import java.util.HashMap;
import java.util.Map;
import java.util.function.Function;
import java.util.function.LongSupplier;
import java.util.function.ToIntBiFunction;

/**
 * Least-recently-used cache limited by total weight rather than by entry count, with an optional
 * time to live. Not safe for use from several threads.
 */
public class WeightedLruCache<K, V> {

    public enum Cause { EVICTED, EXPIRED, REPLACED, INVALIDATED }

    @FunctionalInterface
    public interface RemovalListener<K, V> {
        void onRemoval(K key, V value, Cause cause);
    }

    public record Stats(long hits, long misses, long evictions) {
        public double hitRate() {
            long total = hits + misses;
            return total == 0 ? 1.0 : (double) hits / total;
        }
    }

    private final class Entry {
        final K key;
        final V value;
        final int weight;
        final long deadline;
        Entry newer;
        Entry older;

        Entry(K key, V value, int weight, long deadline) {
            this.key = key;
            this.value = value;
            this.weight = weight;
            this.deadline = deadline;
        }
    }

    private static final long NEVER = Long.MAX_VALUE;

    private final Map<K, Entry> index = new HashMap<>();
    private final long maxWeight;
    private final ToIntBiFunction<? super K, ? super V> weigher;
    private final LongSupplier clock;
    private long ttlNanos = 0;
    private RemovalListener<? super K, ? super V> listener = (key, value, cause) -> { };

    private Entry newest;
    private Entry oldest;
    private long weight;
    private long hits;
    private long misses;
    private long evictions;

    public WeightedLruCache(long maxWeight, ToIntBiFunction<? super K, ? super V> weigher) {
        this(maxWeight, weigher, System::nanoTime);
    }

    WeightedLruCache(long maxWeight, ToIntBiFunction<? super K, ? super V> weigher, LongSupplier clock) {
        if (maxWeight <= 0) {
            throw new IllegalArgumentException("maxWeight must be positive, was " + maxWeight);
        }
        this.maxWeight = maxWeight;
        this.weigher = weigher;
        this.clock = clock;
    }

    public WeightedLruCache<K, V> expireAfterWrite(long nanos) {
        this.ttlNanos = Math.max(0L, nanos);
        return this;
    }

    public WeightedLruCache<K, V> onRemoval(RemovalListener<? super K, ? super V> callback) {
        this.listener = callback;
        return this;
    }

    public V getIfPresent(K key) {
        Entry entry = index.get(key);
        if (entry != null && isExpired(entry)) {
            drop(entry, Cause.EXPIRED);
            entry = null;
        }
        if (entry == null) {
            misses++;
            return null;
        }
        hits++;
        if (entry != newest) {
            unlink(entry);
            linkNewest(entry);
        }
        return entry.value;
    }

    public V get(K key, Function<? super K, ? extends V> loader) {
        V cached = getIfPresent(key);
        if (cached != null) {
            return cached;
        }
        V loaded = loader.apply(key);
        if (loaded != null) {
            put(key, loaded);
        }
        return loaded;
    }

    /** Stores the value unless it alone outweighs the cache, in which case nothing is kept. */
    public boolean put(K key, V value) {
        int w = weigher.applyAsInt(key, value);
        if (w < 0) {
            throw new IllegalStateException("weigher returned " + w + " for key " + key);
        }
        Entry previous = index.get(key);
        if (previous != null) {
            drop(previous, Cause.REPLACED);
        }
        if (w > maxWeight) {
            return false;
        }
        while (weight + w > maxWeight) {
            evictions++;
            drop(oldest, isExpired(oldest) ? Cause.EXPIRED : Cause.EVICTED);
        }
        long deadline = ttlNanos > 0 ? clock.getAsLong() + ttlNanos : NEVER;
        Entry entry = new Entry(key, value, w, deadline);
        index.put(key, entry);
        linkNewest(entry);
        weight += w;
        return true;
    }

    public boolean invalidate(K key) {
        Entry entry = index.get(key);
        if (entry == null) {
            return false;
        }
        drop(entry, Cause.INVALIDATED);
        return true;
    }

    public int purgeExpired() {
        int purged = 0;
        for (Entry e = oldest; e != null; ) {
            Entry following = e.newer;
            if (isExpired(e)) {
                drop(e, Cause.EXPIRED);
                purged++;
            }
            e = following;
        }
        return purged;
    }

    public int size() {
        return index.size();
    }

    public long weight() {
        return weight;
    }

    public Stats stats() {
        return new Stats(hits, misses, evictions);
    }

    private boolean isExpired(Entry entry) {
        // subtraction keeps this right when the nano clock wraps
        return entry.deadline != NEVER && clock.getAsLong() - entry.deadline >= 0;
    }

    private void drop(Entry entry, Cause cause) {
        index.remove(entry.key);
        unlink(entry);
        weight -= entry.weight;
        listener.onRemoval(entry.key, entry.value, cause);
    }

    private void linkNewest(Entry entry) {
        entry.older = newest;
        entry.newer = null;
        if (newest == null) {
            oldest = entry;
        } else {
            newest.newer = entry;
        }
        newest = entry;
    }

    private void unlink(Entry entry) {
        if (entry.newer == null) {
            newest = entry.older;
        } else {
            entry.newer.older = entry.older;
        }
        if (entry.older == null) {
            oldest = entry.newer;
        } else {
            entry.older.newer = entry.newer;
        }
    }
}

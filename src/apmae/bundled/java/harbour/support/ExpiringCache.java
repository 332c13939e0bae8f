package harbour.support;

import java.time.Clock;
import java.time.Duration;
import java.util.Iterator;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Optional;
import java.util.function.BiPredicate;
import java.util.function.Function;

/**
 * Bounded cache with a fixed time to live. Entries are dropped when read past
 * their deadline, or least recently used first once the bound is reached.
 */
public final class ExpiringCache<K, V> {

    private final int maxEntries;
    private final long ttlMillis;
    private final Clock clock;
    private final LinkedHashMap<K, Entry<V>> entries = new LinkedHashMap<>(16, 0.75f, true);
    private long hits;
    private long misses;

    public ExpiringCache(int maxEntries, Duration ttl, Clock clock) {
        if (maxEntries < 1) {
            throw new IllegalArgumentException("maxEntries: " + maxEntries);
        }
        this.maxEntries = maxEntries;
        this.ttlMillis = ttl.toMillis();
        this.clock = clock;
    }

    public synchronized Optional<V> get(K key) {
        Entry<V> entry = entries.get(key);
        if (entry == null) {
            misses++;
            return Optional.empty();
        }
        if (entry.deadline <= clock.millis()) {
            entries.remove(key);
            misses++;
            return Optional.empty();
        }
        hits++;
        return Optional.of(entry.value);
    }

    public V getOrLoad(K key, Function<? super K, ? extends V> loader) {
        Optional<V> cached = get(key);
        if (cached.isPresent()) {
            return cached.get();
        }
        // Loaded outside the lock: two threads may both load, the last one wins.
        V loaded = loader.apply(key);
        if (loaded != null) {
            put(key, loaded);
        }
        return loaded;
    }

    public synchronized void put(K key, V value) {
        entries.put(key, new Entry<>(value, clock.millis() + ttlMillis));
        int excess = entries.size() - maxEntries;
        if (excess > 0) {
            Iterator<K> oldest = entries.keySet().iterator();
            while (excess-- > 0) {
                oldest.next();
                oldest.remove();
            }
        }
    }

    public synchronized int invalidateIf(BiPredicate<? super K, ? super V> condition) {
        int before = entries.size();
        entries.entrySet().removeIf(e -> condition.test(e.getKey(), e.getValue().value));
        return before - entries.size();
    }

    public synchronized Stats stats() {
        return new Stats(hits, misses, entries.size());
    }

    public synchronized Map<K, V> snapshot() {
        long now = clock.millis();
        Map<K, V> live = new LinkedHashMap<>();
        entries.forEach((key, entry) -> {
            if (entry.deadline > now) {
                live.put(key, entry.value);
            }
        });
        return live;
    }

    private record Entry<V>(V value, long deadline) {
    }

    public record Stats(long hits, long misses, int size) {
        public double hitRate() {
            long total = hits + misses;
            return total == 0 ? 0.0 : (double) hits / total;
        }
    }
}

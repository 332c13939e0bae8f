package cellar;

import java.io.Closeable;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.Map;
import java.util.NavigableMap;
import java.util.Objects;
import java.util.Optional;
import java.util.TreeMap;
import java.util.concurrent.locks.ReadWriteLock;
import java.util.concurrent.locks.ReentrantReadWriteLock;
import java.util.function.BiConsumer;
import java.util.function.UnaryOperator;

/**
 * In-memory ordered map made durable by a {@link Journal} and periodic {@link Snapshot}s. Intended for
 * metadata: a few hundred thousand small values, read often and written rarely.
 */
public class KeyValueStore implements Closeable {

    private static final byte OP_PUT = 0x01;
    private static final byte OP_DELETE = 0x02;
    private static final byte OP_CLEAR_PREFIX = 0x03;

    private static final int MAX_KEY_LENGTH = 512;
    private static final long JOURNAL_ROLL_BYTES = 4L * 1024 * 1024;

    private final Path directory;
    private final ReadWriteLock lock = new ReentrantReadWriteLock();
    private NavigableMap<String, byte[]> entries = new TreeMap<>();
    private Journal journal;
    private int writesSinceSnapshot;
    private final int snapshotEvery;
    private boolean closed;

    public KeyValueStore(Path directory, int snapshotEvery) throws IOException {
        this.directory = directory;
        this.snapshotEvery = snapshotEvery;
        long covered = 0;
        Optional<Snapshot> latest = Snapshot.latest(directory);
        if (latest.isPresent()) {
            entries = new TreeMap<>(latest.get().entries());
            covered = latest.get().sequence();
        }
        journal = Journal.open(directory.resolve("journal"), JOURNAL_ROLL_BYTES, covered, e -> apply(e.body()));
    }

    public Optional<String> get(String key) {
        lock.readLock().lock();
        try {
            byte[] value = entries.get(key);
            return value == null ? Optional.empty() : Optional.of(new String(value, StandardCharsets.UTF_8));
        } finally {
            lock.readLock().unlock();
        }
    }

    public void put(String key, String value) {
        requireValidKey(key);
        Objects.requireNonNull(value, "value");
        write(encode(OP_PUT, key, value.getBytes(StandardCharsets.UTF_8)));
    }

    public boolean delete(String key) {
        lock.writeLock().lock();
        try {
            if (!entries.containsKey(key)) {
                return false;
            }
            write(encode(OP_DELETE, key, null));
            return true;
        } finally {
            lock.writeLock().unlock();
        }
    }

    /** Atomic read-modify-write. The operator sees null for a missing key and may return null to delete it. */
    public Optional<String> update(String key, UnaryOperator<String> change) {
        requireValidKey(key);
        lock.writeLock().lock();
        try {
            String before = get(key).orElse(null);
            String after = change.apply(before);
            if (!Objects.equals(before, after)) {
                if (after == null) {
                    write(encode(OP_DELETE, key, null));
                } else {
                    put(key, after);
                }
            }
            return Optional.ofNullable(after);
        } finally {
            lock.writeLock().unlock();
        }
    }

    public void deletePrefix(String prefix) {
        if (prefix.isEmpty()) {
            throw new IllegalArgumentException("refusing to clear the whole store");
        }
        write(encode(OP_CLEAR_PREFIX, prefix, null));
    }

    public int forEachWithPrefix(String prefix, BiConsumer<String, String> action) {
        lock.readLock().lock();
        try {
            int visited = 0;
            for (Map.Entry<String, byte[]> e : prefixView(prefix).entrySet()) {
                action.accept(e.getKey(), new String(e.getValue(), StandardCharsets.UTF_8));
                visited++;
            }
            return visited;
        } finally {
            lock.readLock().unlock();
        }
    }

    private NavigableMap<String, byte[]> prefixView(String prefix) {
        // U+FFFF never appears in a valid key, so it bounds everything that starts with the prefix.
        return entries.subMap(prefix, true, prefix + Character.MAX_VALUE, false);
    }

    private void write(byte[] operation) {
        lock.writeLock().lock();
        try {
            if (closed) {
                throw new IllegalStateException("store is closed");
            }
            journal.commit(operation);
            apply(operation);
            if (++writesSinceSnapshot >= snapshotEvery) {
                checkpoint();
            }
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        } finally {
            lock.writeLock().unlock();
        }
    }

    private void apply(byte[] operation) {
        ByteBuffer in = ByteBuffer.wrap(operation);
        byte op = in.get();
        String key = Varint.readString(in);
        switch (op) {
            case OP_PUT:
                entries.put(key, Varint.readBytes(in));
                break;
            case OP_DELETE:
                entries.remove(key);
                break;
            case OP_CLEAR_PREFIX:
                prefixView(key).clear();
                break;
            default:
                throw new CorruptDataException("unknown journal operation " + op);
        }
    }

    private void checkpoint() throws IOException {
        long sequence = journal.lastSequence();
        new Snapshot(sequence, entries).save(directory);
        journal.discardBefore(sequence + 1);
        Snapshot.prune(directory, 2);
        writesSinceSnapshot = 0;
    }

    private static byte[] encode(byte op, String key, byte[] value) {
        byte[] keyBytes = key.getBytes(StandardCharsets.UTF_8);
        int size = 1 + Varint.sizeOf(keyBytes.length) + keyBytes.length;
        if (value != null) {
            size += Varint.sizeOf(value.length) + value.length;
        }
        ByteBuffer out = ByteBuffer.allocate(size).put(op);
        Varint.writeBytes(out, keyBytes);
        if (value != null) {
            Varint.writeBytes(out, value);
        }
        return out.array();
    }

    private static void requireValidKey(String key) {
        if (key == null || key.isEmpty() || key.length() > MAX_KEY_LENGTH || key.indexOf(Character.MAX_VALUE) >= 0) {
            throw new IllegalArgumentException("bad key: " + key);
        }
    }

    @Override
    public void close() throws IOException {
        lock.writeLock().lock();
        try {
            if (!closed) {
                closed = true;
                if (writesSinceSnapshot > 0) {
                    checkpoint();
                }
                journal.close();
            }
        } finally {
            lock.writeLock().unlock();
        }
    }
}

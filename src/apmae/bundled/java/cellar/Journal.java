package cellar;

import java.io.Closeable;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.locks.Condition;
import java.util.concurrent.locks.ReentrantLock;
import java.util.stream.Stream;

/**
 * Write-ahead journal over a directory of {@link LogSegment}s. Concurrent committers share a single fsync:
 * whoever arrives first becomes the leader and flushes on behalf of everyone whose entry is already in the
 * file.
 */
public final class Journal implements Closeable {

    public record Entry(long sequence, byte[] body) {
    }

    public interface Replay {
        void apply(Entry entry);
    }

    private static final String SUFFIX = ".wal";

    private final Path directory;
    private final long rollAtBytes;
    private final TreeMap<Long, LogSegment> segments = new TreeMap<>();
    private final ReentrantLock lock = new ReentrantLock();
    private final Condition flushed = lock.newCondition();

    private LogSegment active;
    private long nextSequence = 1;
    private long durableSequence;
    private boolean flushing;
    private IOException failure;

    private Journal(Path directory, long rollAtBytes) {
        this.directory = directory;
        this.rollAtBytes = rollAtBytes;
    }

    public static Journal open(Path directory, long rollAtBytes, long afterSequence, Replay replay) throws IOException {
        Files.createDirectories(directory);
        Journal journal = new Journal(directory, rollAtBytes);
        List<Path> files;
        try (Stream<Path> listing = Files.list(directory)) {
            files = listing.filter(p -> p.getFileName().toString().endsWith(SUFFIX))
                    .sorted(Comparator.comparing(p -> p.getFileName().toString()))
                    .toList();
        }
        for (int i = 0; i < files.size(); i++) {
            boolean last = i == files.size() - 1;
            LogSegment segment = LogSegment.open(files.get(i), last);
            journal.segments.put(segment.baseSequence(), segment);
            journal.replay(segment, afterSequence, replay);
            if (last) {
                journal.active = segment;
            }
        }
        journal.nextSequence = Math.max(journal.nextSequence, afterSequence + 1);
        if (journal.active == null) {
            journal.roll();
        }
        journal.durableSequence = journal.nextSequence - 1;
        return journal;
    }

    private void replay(LogSegment segment, long afterSequence, Replay replay) throws IOException {
        nextSequence = Math.max(nextSequence, segment.baseSequence());
        segment.scan(LogSegment.HEADER_BYTES, (offset, payload) -> {
            long sequence = Varint.readUnsigned(payload);
            if (sequence != nextSequence) {
                throw new CorruptDataException("journal gap: expected " + nextSequence + ", found " + sequence, offset);
            }
            nextSequence = sequence + 1;
            if (sequence > afterSequence) {
                byte[] body = new byte[payload.remaining()];
                payload.get(body);
                replay.apply(new Entry(sequence, body));
            }
            return true;
        });
    }

    /** Blocks until the entry is on stable storage and returns its sequence number. */
    public long commit(byte[] body) throws IOException {
        lock.lock();
        try {
            ensureHealthy();
            long sequence = nextSequence;
            ByteBuffer record = ByteBuffer.allocate(Varint.sizeOf(sequence) + body.length);
            Varint.writeUnsigned(record, sequence);
            record.put(body).flip();
            // The leader flushes without the lock, so a segment it may be holding must not be swapped out.
            if (active.currentTail() >= rollAtBytes && !flushing) {
                roll();
            }
            active.append(record);
            nextSequence++;
            awaitDurable(sequence);
            return sequence;
        } finally {
            lock.unlock();
        }
    }

    private void awaitDurable(long sequence) throws IOException {
        while (durableSequence < sequence) {
            ensureHealthy();
            if (flushing) {
                flushed.awaitUninterruptibly();
                continue;
            }
            flushing = true;
            long covers = nextSequence - 1;
            LogSegment target = active;
            IOException problem = null;
            lock.unlock();
            try {
                target.flush();
            } catch (IOException e) {
                problem = e;
            } finally {
                lock.lock();
                flushing = false;
            }
            if (problem == null) {
                durableSequence = Math.max(durableSequence, covers);
            } else {
                failure = problem;
            }
            flushed.signalAll();
        }
    }

    private void ensureHealthy() throws IOException {
        if (failure != null) {
            throw new IOException("journal is read-only after a failed flush", failure);
        }
    }

    private void roll() throws IOException {
        if (active != null) {
            active.seal();
            durableSequence = nextSequence - 1;
        }
        String name = String.format(Locale.ROOT, "%016x%s", nextSequence, SUFFIX);
        active = LogSegment.create(directory.resolve(name), nextSequence, Checksum.CRC_CASTAGNOLI);
        segments.put(nextSequence, active);
    }

    /** Deletes every segment whose entries all precede {@code sequence}. The active segment always stays. */
    public int discardBefore(long sequence) {
        lock.lock();
        try {
            List<Long> expired = new ArrayList<>();
            for (Map.Entry<Long, LogSegment> e : segments.entrySet()) {
                Long following = segments.higherKey(e.getKey());
                if (following == null || following > sequence) {
                    break;
                }
                expired.add(e.getKey());
            }
            for (Long base : expired) {
                LogSegment segment = segments.remove(base);
                segment.close();
                Files.deleteIfExists(segment.path());
            }
            return expired.size();
        } catch (IOException e) {
            throw new UncheckedIOException("could not trim journal in " + directory, e);
        } finally {
            lock.unlock();
        }
    }

    public long lastSequence() {
        lock.lock();
        try {
            return nextSequence - 1;
        } finally {
            lock.unlock();
        }
    }

    @Override
    public void close() throws IOException {
        lock.lock();
        try {
            active.seal();
            for (LogSegment segment : segments.values()) {
                segment.close();
            }
            segments.clear();
        } finally {
            lock.unlock();
        }
    }
}

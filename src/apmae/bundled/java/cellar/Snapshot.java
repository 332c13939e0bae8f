package cellar;

import java.io.BufferedInputStream;
import java.io.BufferedOutputStream;
import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.IOException;
import java.nio.file.AtomicMoveNotSupportedException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.Collections;
import java.util.Comparator;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.TreeMap;
import java.util.stream.Stream;
import java.util.zip.CheckedInputStream;
import java.util.zip.CheckedOutputStream;
import java.util.zip.CRC32C;

/** Full copy of a store's contents as of one journal sequence number. */
public record Snapshot(long sequence, Map<String, byte[]> entries) {

    private static final int MAGIC = 0x534E_4150;
    private static final String PREFIX = "snapshot-";

    public Path save(Path directory) throws IOException {
        Path target = directory.resolve(PREFIX + sequence);
        Path scratch = Files.createTempFile(directory, "pending-", ".tmp");
        boolean moved = false;
        try {
            CRC32C crc = new CRC32C();
            try (var raw = new BufferedOutputStream(Files.newOutputStream(scratch), 1 << 16);
                 var out = new DataOutputStream(new CheckedOutputStream(raw, crc))) {
                out.writeInt(MAGIC);
                out.writeLong(sequence);
                out.writeInt(entries.size());
                for (Map.Entry<String, byte[]> e : entries.entrySet()) {
                    out.writeUTF(e.getKey());
                    out.writeInt(e.getValue().length);
                    out.write(e.getValue());
                }
                out.writeLong(crc.getValue());
            }
            try {
                Files.move(scratch, target, StandardCopyOption.ATOMIC_MOVE);
            } catch (AtomicMoveNotSupportedException e) {
                Files.move(scratch, target, StandardCopyOption.REPLACE_EXISTING);
            }
            moved = true;
            return target;
        } finally {
            if (!moved) {
                Files.deleteIfExists(scratch);
            }
        }
    }

    public static Snapshot load(Path file) throws IOException {
        CRC32C crc = new CRC32C();
        try (var raw = new BufferedInputStream(Files.newInputStream(file));
             var in = new DataInputStream(new CheckedInputStream(raw, crc))) {
            if (in.readInt() != MAGIC) {
                throw new CorruptDataException(file.getFileName() + " is not a snapshot", 0);
            }
            long sequence = in.readLong();
            int count = in.readInt();
            Map<String, byte[]> entries = new TreeMap<>();
            while (count-- > 0) {
                String key = in.readUTF();
                int length = in.readInt();
                byte[] value = in.readNBytes(length);
                if (value.length != length) {
                    throw new CorruptDataException("value of '" + key + "' is cut short");
                }
                entries.put(key, value);
            }
            long actual = crc.getValue();
            if (in.readLong() != actual) {
                throw new CorruptDataException("snapshot " + sequence + " fails its checksum");
            }
            return new Snapshot(sequence, Collections.unmodifiableMap(entries));
        }
    }

    /** Newest readable snapshot; damaged files are skipped so an older one can still bring the store up. */
    public static Optional<Snapshot> latest(Path directory) throws IOException {
        if (!Files.isDirectory(directory)) {
            Files.createDirectories(directory);
            return Optional.empty();
        }
        CorruptDataException firstProblem = null;
        for (Path candidate : newestFirst(directory)) {
            try {
                return Optional.of(load(candidate));
            } catch (CorruptDataException e) {
                if (firstProblem == null) {
                    firstProblem = e;
                }
            }
        }
        if (firstProblem != null) {
            throw firstProblem;
        }
        return Optional.empty();
    }

    public static void prune(Path directory, int keep) throws IOException {
        List<Path> all = newestFirst(directory);
        for (Path stale : all.subList(Math.min(keep, all.size()), all.size())) {
            Files.deleteIfExists(stale);
        }
    }

    private static List<Path> newestFirst(Path directory) throws IOException {
        try (Stream<Path> files = Files.list(directory)) {
            return files.filter(p -> p.getFileName().toString().matches(PREFIX + "\\d+"))
                    .sorted(Comparator.comparingLong(Snapshot::sequenceOf).reversed())
                    .toList();
        }
    }

    private static long sequenceOf(Path file) {
        return Long.parseLong(file.getFileName().toString().substring(PREFIX.length()));
    }
}

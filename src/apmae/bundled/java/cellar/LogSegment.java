package cellar;

import java.io.Closeable;
import java.io.EOFException;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.Optional;

/**
 * One append-only file in a log. A segment starts with a sixteen byte header and is followed by records,
 * each framed as length, checksum and payload. Records are never rewritten in place; a torn tail left by a
 * crash is cut off when the segment is opened for writing.
 */
public final class LogSegment implements Closeable {

    @FunctionalInterface
    public interface RecordVisitor {
        /** Returns false to stop the scan early. */
        boolean visit(long offset, ByteBuffer payload) throws IOException;
    }

    static final int HEADER_BYTES = 16;
    static final int FRAME_BYTES = 8;
    static final int MAX_RECORD_BYTES = 16 << 20;

    private static final int MAGIC = 0xCE11A201;
    private static final byte VERSION = 2;

    private final Path path;
    private final FileChannel channel;
    private final Checksum checksum;
    private final long baseSequence;
    private final boolean writable;
    private long tail;
    private boolean sealed;

    private LogSegment(Path path, FileChannel channel, Checksum checksum, long baseSequence, boolean writable) {
        this.path = path;
        this.channel = channel;
        this.checksum = checksum;
        this.baseSequence = baseSequence;
        this.writable = writable;
        this.tail = HEADER_BYTES;
    }

    public static LogSegment create(Path path, long baseSequence, Checksum checksum) throws IOException {
        FileChannel channel = FileChannel.open(path,
                StandardOpenOption.CREATE_NEW, StandardOpenOption.READ, StandardOpenOption.WRITE);
        ByteBuffer header = ByteBuffer.allocate(HEADER_BYTES);
        header.putInt(MAGIC).put(VERSION).put(checksum.code()).putShort((short) 0).putLong(baseSequence).flip();
        try {
            writeFully(channel, header, 0);
            channel.force(true);
        } catch (IOException e) {
            channel.close();
            throw e;
        }
        return new LogSegment(path, channel, checksum, baseSequence, true);
    }

    public static LogSegment open(Path path, boolean writable) throws IOException {
        FileChannel channel = writable
                ? FileChannel.open(path, StandardOpenOption.READ, StandardOpenOption.WRITE)
                : FileChannel.open(path, StandardOpenOption.READ);
        boolean opened = false;
        try {
            ByteBuffer header = ByteBuffer.allocate(HEADER_BYTES);
            readFully(channel, header, 0);
            header.flip();
            int magic = header.getInt();
            if (magic != MAGIC) {
                throw new CorruptDataException("not a log segment: magic 0x" + Integer.toHexString(magic), 0);
            }
            byte version = header.get();
            if (version < 1 || version > VERSION) {
                throw new CorruptDataException("unsupported segment version " + version, 4);
            }
            Checksum checksum = Checksum.fromCode(header.get());
            header.getShort();
            LogSegment segment = new LogSegment(path, channel, checksum, header.getLong(), writable);
            segment.recover();
            opened = true;
            return segment;
        } finally {
            if (!opened) {
                channel.close();
            }
        }
    }

    private void recover() throws IOException {
        tail = scan(HEADER_BYTES, (offset, payload) -> true);
        if (writable && tail < channel.size()) {
            channel.truncate(tail);
            channel.force(true);
        }
    }

    /** Appends one record and returns the offset at which it can later be read. */
    public synchronized long append(ByteBuffer payload) throws IOException {
        if (!writable || sealed) {
            throw new IllegalStateException("segment " + path.getFileName() + " does not accept writes");
        }
        int length = payload.remaining();
        if (length == 0 || length > MAX_RECORD_BYTES) {
            throw new IllegalArgumentException("record of " + length + " bytes");
        }
        ByteBuffer frame = ByteBuffer.allocate(FRAME_BYTES + length);
        frame.putInt(length).putInt(checksum.compute(payload)).put(payload.duplicate()).flip();

        long offset = tail;
        writeFully(channel, frame, offset);
        tail += FRAME_BYTES + length;
        return offset;
    }

    public ByteBuffer read(long offset) throws IOException {
        return readRecord(offset, currentTail())
                .orElseThrow(() -> new CorruptDataException("no valid record in " + path.getFileName(), offset));
    }

    /**
     * Walks records from {@code from} until the visitor declines, the file ends, or a frame fails its
     * checksum.
     *
     * @return the offset just past the last good record that was seen
     */
    public long scan(long from, RecordVisitor visitor) throws IOException {
        long end = channel.size();
        long offset = from;
        while (offset + FRAME_BYTES < end) {
            Optional<ByteBuffer> record = readRecord(offset, end);
            if (record.isEmpty()) {
                break;
            }
            long next = offset + FRAME_BYTES + record.get().remaining();
            if (!visitor.visit(offset, record.get())) {
                return next;
            }
            offset = next;
        }
        return offset;
    }

    private Optional<ByteBuffer> readRecord(long offset, long end) throws IOException {
        if (offset < HEADER_BYTES || offset + FRAME_BYTES > end) {
            return Optional.empty();
        }
        ByteBuffer frame = ByteBuffer.allocate(FRAME_BYTES);
        readFully(channel, frame, offset);
        frame.flip();
        int length = frame.getInt();
        int expected = frame.getInt();
        if (length <= 0 || length > MAX_RECORD_BYTES || offset + FRAME_BYTES + length > end) {
            return Optional.empty();
        }
        ByteBuffer payload = ByteBuffer.allocate(length);
        readFully(channel, payload, offset + FRAME_BYTES);
        payload.flip();
        return checksum.matches(expected, payload) ? Optional.of(payload.asReadOnlyBuffer()) : Optional.empty();
    }

    public synchronized void seal() throws IOException {
        if (!sealed) {
            channel.force(true);
            sealed = true;
        }
    }

    public void flush() throws IOException {
        channel.force(false);
    }

    public synchronized long currentTail() {
        return tail;
    }

    public long baseSequence() {
        return baseSequence;
    }

    public Path path() {
        return path;
    }

    @Override
    public void close() throws IOException {
        channel.close();
    }

    private static void writeFully(FileChannel channel, ByteBuffer data, long position) throws IOException {
        while (data.hasRemaining()) {
            position += channel.write(data, position);
        }
    }

    private static void readFully(FileChannel channel, ByteBuffer into, long position) throws IOException {
        while (into.hasRemaining()) {
            int n = channel.read(into, position);
            if (n < 0) {
                throw new EOFException("segment ends inside a frame at " + position);
            }
            position += n;
        }
    }
}

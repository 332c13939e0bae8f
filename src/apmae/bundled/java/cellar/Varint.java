package cellar;

import java.nio.BufferUnderflowException;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;

/**
 * Base-128 integer encoding used by every on-disk structure in this package. Small magnitudes take one
 * byte; a full 64-bit value takes ten.
 */
public final class Varint {

    public static final int MAX_LONG_BYTES = 10;
    private static final int CONTINUATION = 0x80;
    private static final int PAYLOAD = 0x7F;

    private Varint() {
    }

    public static int sizeOf(long value) {
        // 7 bits per byte, and zero still needs one byte.
        int significant = 64 - Long.numberOfLeadingZeros(value | 1L);
        return (significant + 6) / 7;
    }

    public static void writeUnsigned(ByteBuffer out, long value) {
        while ((value & ~(long) PAYLOAD) != 0) {
            out.put((byte) ((value & PAYLOAD) | CONTINUATION));
            value >>>= 7;
        }
        out.put((byte) value);
    }

    public static long readUnsigned(ByteBuffer in) {
        long result = 0L;
        int shift = 0;
        while (shift < 64) {
            byte b = in.get();
            result |= (long) (b & PAYLOAD) << shift;
            if (b >= 0) {
                if (shift == 63 && b > 1) {
                    throw new CorruptDataException("varint overflows 64 bits");
                }
                return result;
            }
            shift += 7;
        }
        throw new CorruptDataException("varint longer than " + MAX_LONG_BYTES + " bytes");
    }

    public static void writeSigned(ByteBuffer out, long value) {
        writeUnsigned(out, (value << 1) ^ (value >> 63));
    }

    public static long readSigned(ByteBuffer in) {
        long raw = readUnsigned(in);
        return (raw >>> 1) ^ -(raw & 1);
    }

    public static int readLength(ByteBuffer in, int limit) {
        long length = readUnsigned(in);
        if (length < 0 || length > limit) {
            throw new CorruptDataException("length " + Long.toUnsignedString(length) + " exceeds limit " + limit);
        }
        return (int) length;
    }

    public static void writeBytes(ByteBuffer out, byte[] data) {
        writeUnsigned(out, data.length);
        out.put(data);
    }

    public static byte[] readBytes(ByteBuffer in) {
        int length = readLength(in, in.remaining());
        if (length > in.remaining()) {
            throw new BufferUnderflowException();
        }
        byte[] data = new byte[length];
        in.get(data);
        return data;
    }

    public static String readString(ByteBuffer in) {
        return new String(readBytes(in), StandardCharsets.UTF_8);
    }

    /**
     * Delta-encodes an ascending run of offsets. Gaps between neighbours are far smaller than the offsets
     * themselves, so a block of a thousand entries usually fits in two pages.
     */
    public static byte[] packAscending(long[] offsets) {
        int needed = sizeOf(offsets.length);
        long previous = 0;
        for (long offset : offsets) {
            if (offset < previous) {
                throw new IllegalArgumentException("offsets must not decrease: " + offset + " after " + previous);
            }
            needed += sizeOf(offset - previous);
            previous = offset;
        }

        ByteBuffer buffer = ByteBuffer.allocate(needed);
        writeUnsigned(buffer, offsets.length);
        previous = 0;
        for (long offset : offsets) {
            writeUnsigned(buffer, offset - previous);
            previous = offset;
        }
        return buffer.array();
    }

    public static long[] unpackAscending(byte[] packed) {
        ByteBuffer in = ByteBuffer.wrap(packed);
        long[] offsets = new long[readLength(in, packed.length)];
        long running = 0;
        for (int i = 0; i < offsets.length; i++) {
            running += readUnsigned(in);
            offsets[i] = running;
        }
        return offsets;
    }
}

package cellar;

import java.nio.ByteBuffer;
import java.util.Locale;
import java.util.function.Supplier;
import java.util.zip.CRC32;
import java.util.zip.CRC32C;

/** The checksum flavours a segment header may declare. The code byte is part of the file format. */
public enum Checksum {

    NONE(0, () -> new Hasher() {
        @Override
        public void update(ByteBuffer data) {
            data.position(data.limit());
        }

        @Override
        public int finish() {
            return 0;
        }
    }),

    CRC_IEEE(1, () -> new ZipHasher(new CRC32())),
    CRC_CASTAGNOLI(2, () -> new ZipHasher(new CRC32C())),
    FLETCHER_32(3, FletcherHasher::new);

    public interface Hasher {
        void update(ByteBuffer data);

        int finish();
    }

    private final byte code;
    private final Supplier<Hasher> factory;

    Checksum(int code, Supplier<Hasher> factory) {
        this.code = (byte) code;
        this.factory = factory;
    }

    public byte code() {
        return code;
    }

    public static Checksum fromCode(int code) {
        for (Checksum candidate : values()) {
            if (candidate.code == code) {
                return candidate;
            }
        }
        throw new CorruptDataException(String.format(Locale.ROOT, "unknown checksum code 0x%02x", code & 0xFF));
    }

    /** Leaves the position of every buffer untouched. */
    public int compute(ByteBuffer... parts) {
        Hasher hasher = factory.get();
        for (ByteBuffer part : parts) {
            hasher.update(part.duplicate());
        }
        return hasher.finish();
    }

    public boolean matches(int expected, ByteBuffer... parts) {
        return this == NONE || compute(parts) == expected;
    }

    private static final class ZipHasher implements Hasher {
        private final java.util.zip.Checksum delegate;

        ZipHasher(java.util.zip.Checksum delegate) {
            this.delegate = delegate;
        }

        @Override
        public void update(ByteBuffer data) {
            delegate.update(data);
        }

        @Override
        public int finish() {
            return (int) delegate.getValue();
        }
    }

    private static final class FletcherHasher implements Hasher {
        private static final int MODULUS = 65_535;
        // Longest run of 16-bit words that cannot push the second sum past Integer.MAX_VALUE.
        private static final int RUN = 254;

        private int low;
        private int high;
        private int pendingByte = -1;
        private int sinceReduce;

        @Override
        public void update(ByteBuffer data) {
            while (data.hasRemaining()) {
                int b = data.get() & 0xFF;
                if (pendingByte < 0) {
                    pendingByte = b;
                    continue;
                }
                absorb(pendingByte | b << 8);
                pendingByte = -1;
            }
        }

        private void absorb(int word) {
            low += word;
            high += low;
            if (++sinceReduce == RUN) {
                low %= MODULUS;
                high %= MODULUS;
                sinceReduce = 0;
            }
        }

        @Override
        public int finish() {
            if (pendingByte >= 0) {
                absorb(pendingByte);
                pendingByte = -1;
            }
            return (high % MODULUS) << 16 | (low % MODULUS);
        }
    }
}

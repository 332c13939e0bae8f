package beacon;

import java.net.ProtocolException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.ArrayList;
import java.util.EnumSet;
import java.util.List;
import java.util.Set;

/**
 * Incremental decoder and encoder for the agent wire protocol.
 *
 * <pre>
 *   0      1      2          4               8
 *   +------+------+----------+---------------+---------
 *   | 0xBE | type |  flags   |  body length  | body ...
 *   +------+------+----------+---------------+---------
 * </pre>
 *
 * Feed it whatever the socket produced; complete frames come out. An instance belongs to one connection
 * and is not thread safe.
 */
public final class FrameCodec {

    public enum Type {
        HELLO(0x01), PING(0x02), PONG(0x03), REQUEST(0x10), RESPONSE(0x11), EVENT(0x20), GOODBYE(0x7F);

        final int wire;

        Type(int wire) {
            this.wire = wire;
        }

        boolean isControl() {
            return wire < 0x10 || this == GOODBYE;
        }
    }

    public enum Flag {
        COMPRESSED, URGENT, MORE_FOLLOWS, MASKED;

        int bit() {
            return 1 << ordinal();
        }
    }

    public record Frame(Type type, Set<Flag> flags, byte[] body) {
        public boolean has(Flag flag) {
            return flags.contains(flag);
        }
    }

    private static final int MARKER = 0xBE;
    private static final int HEADER = 8;
    private static final int MAX_CONTROL_BODY = 125;
    private static final Type[] BY_WIRE = new Type[128];

    static {
        for (Type t : Type.values()) {
            BY_WIRE[t.wire] = t;
        }
    }

    private final int maxBody;
    private ByteBuffer pending = ByteBuffer.allocate(4_096).order(ByteOrder.BIG_ENDIAN);
    private long framesSeen;
    private boolean poisoned = false;

    public FrameCodec(int maxBody) {
        this.maxBody = maxBody;
    }

    public List<Frame> feed(ByteBuffer chunk) throws ProtocolException {
        if (poisoned) {
            throw new ProtocolException("connection already failed");
        }
        ensureRoom(chunk.remaining());
        pending.put(chunk).flip();
        List<Frame> frames = new ArrayList<>();
        try {
            Frame frame;
            while ((frame = tryDecode()) != null) {
                frames.add(frame);
                framesSeen++;
            }
        } catch (ProtocolException e) {
            poisoned = true;
            throw e;
        } finally {
            pending.compact();
        }
        return frames;
    }

    private Frame tryDecode() throws ProtocolException {
        if (pending.remaining() < HEADER) {
            return null;
        }
        int start = pending.position();
        int marker = pending.get(start) & 0xFF;
        if (marker != MARKER) {
            throw new ProtocolException(String.format("bad marker 0x%02X after %d frames", marker, framesSeen));
        }
        int wire = pending.get(start + 1);
        Type type = wire >= 0 ? BY_WIRE[wire] : null;
        if (type == null) {
            throw new ProtocolException("unknown frame type " + (wire & 0xFF));
        }
        if (framesSeen == 0 && type != Type.HELLO) {
            throw new ProtocolException("peer opened with " + type + " instead of HELLO");
        }
        Set<Flag> flags = parseFlags(pending.getShort(start + 2) & 0xFFFF);
        int length = pending.getInt(start + 4);
        int limit = type.isControl() ? MAX_CONTROL_BODY : maxBody;
        if (length < 0 || length > limit) {
            throw new ProtocolException(type + " body of " + Integer.toUnsignedString(length) + " bytes");
        }
        if (pending.remaining() < HEADER + length) {
            return null;
        }
        byte[] body = new byte[length];
        pending.position(start + HEADER).get(body);
        if (flags.contains(Flag.MASKED)) {
            body = unmask(body);
        }
        return new Frame(type, flags, body);
    }

    public static ByteBuffer encode(Frame frame) {
        int bits = 0;
        for (Flag flag : frame.flags()) {
            if (flag != Flag.MASKED) {
                bits |= flag.bit();
            }
        }
        ByteBuffer out = ByteBuffer.allocate(HEADER + frame.body().length);
        out.put((byte) MARKER).put((byte) frame.type().wire).putShort((short) bits);
        out.putInt(frame.body().length).put(frame.body());
        return out.flip();
    }

    private static Set<Flag> parseFlags(int bits) throws ProtocolException {
        EnumSet<Flag> flags = EnumSet.noneOf(Flag.class);
        for (Flag flag : Flag.values()) {
            if ((bits & flag.bit()) != 0) {
                flags.add(flag);
                bits &= ~flag.bit();
            }
        }
        if (bits != 0) {
            throw new ProtocolException("reserved flag bits set: 0b" + Integer.toBinaryString(bits));
        }
        return flags;
    }

    private static byte[] unmask(byte[] body) throws ProtocolException {
        if (body.length < 4) {
            throw new ProtocolException("masked body without a key");
        }
        byte[] clear = new byte[body.length - 4];
        for (int i = 0; i < clear.length; i++) {
            clear[i] = (byte) (body[i + 4] ^ body[i & 3]);
        }
        return clear;
    }

    private void ensureRoom(int extra) {
        if (pending.remaining() >= extra) {
            return;
        }
        int wanted = Math.max(pending.capacity() << 1, pending.position() + extra);
        ByteBuffer bigger = ByteBuffer.allocate(wanted).order(pending.order());
        bigger.put(pending.flip());
        pending = bigger;
    }
}

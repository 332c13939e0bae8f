package cellar;

/** Raised when bytes on disk cannot be what this process, or an older version of it, once wrote. */
public class CorruptDataException extends RuntimeException {

    private static final long serialVersionUID = 1L;

    private final long position;

    public CorruptDataException(String message) {
        this(message, -1L);
    }

    public CorruptDataException(String message, long position) {
        super(position < 0 ? message : message + " (at byte " + position + ")");
        this.position = position;
    }

    public boolean hasPosition() {
        return position >= 0;
    }

    public long position() {
        return position;
    }
}

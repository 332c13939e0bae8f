package harbour.yard;

import java.util.Optional;

/** A freight container identifier such as {@code HBRU 305438 9}, check digit included. */
public record ContainerNumber(String owner, int serial, int checkDigit) implements Comparable<ContainerNumber> {

    private static final int LENGTH = 11;

    public ContainerNumber {
        if (owner.length() != 4 || "UJZ".indexOf(owner.charAt(3)) < 0) {
            throw new IllegalArgumentException("bad owner code: " + owner);
        }
        if (serial < 0 || serial > 999_999) {
            throw new IllegalArgumentException("serial out of range: " + serial);
        }
        int expected = computeCheckDigit(owner, serial);
        if (checkDigit != expected) {
            throw new IllegalArgumentException("check digit is " + checkDigit + ", should be " + expected);
        }
    }

    public static Optional<ContainerNumber> tryParse(CharSequence text) {
        StringBuilder compact = new StringBuilder(LENGTH);
        for (int i = 0; i < text.length(); i++) {
            char c = text.charAt(i);
            if (c == ' ' || c == '-') {
                continue;
            }
            boolean letterExpected = compact.length() < 4;
            char upper = c >= 'a' && c <= 'z' ? (char) (c & ~0x20) : c;
            boolean ok = letterExpected ? upper >= 'A' && upper <= 'Z' : upper >= '0' && upper <= '9';
            if (!ok || compact.length() == LENGTH) {
                return Optional.empty();
            }
            compact.append(upper);
        }
        if (compact.length() != LENGTH) {
            return Optional.empty();
        }
        try {
            return Optional.of(new ContainerNumber(compact.substring(0, 4),
                    Integer.parseInt(compact.substring(4, 10)), compact.charAt(10) - '0'));
        } catch (IllegalArgumentException e) {
            return Optional.empty();
        }
    }

    /**
     * Letters count from 10 upwards but skip every multiple of 11; position i
     * weighs 2^i; the sum is taken modulo 11, and a remainder of 10 becomes 0.
     */
    static int computeCheckDigit(String owner, int serial) {
        int sum = 0;
        for (int i = 0; i < 4; i++) {
            int value = 10;
            for (char c = 'A'; c < owner.charAt(i); c++) {
                value++;
                if (value % 11 == 0) {
                    value++;
                }
            }
            sum += value << i;
        }
        int divisor = 100_000;
        for (int i = 4; i < 10; i++) {
            sum += (serial / divisor % 10) << i;
            divisor /= 10;
        }
        return sum % 11 % 10;
    }

    public boolean isFreightContainer() {
        return owner.charAt(3) == 'U';
    }

    @Override
    public int compareTo(ContainerNumber other) {
        int byOwner = owner.compareTo(other.owner);
        return byOwner != 0 ? byOwner : Integer.compare(serial, other.serial);
    }

    @Override
    public String toString() {
        return String.format("%s %06d %d", owner, serial, checkDigit);
    }
}

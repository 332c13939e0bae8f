package harbour.berth;

import java.util.Locale;
import java.util.Objects;

/**
 * A ship as far as the harbour office cares about it: how long, how deep and
 * what it carries.
 */
public record Vessel(int imo, String name, VesselClass type, double lengthMetres, double draughtMetres) {

    public Vessel {
        Objects.requireNonNull(type, "type");
        if (!isValidImo(imo)) {
            throw new IllegalArgumentException("IMO number " + imo + " has a bad check digit");
        }
        if (name == null || name.isBlank()) {
            throw new IllegalArgumentException("vessel " + imo + " has no name");
        }
        if (lengthMetres <= 0 || lengthMetres > 460.0) {
            throw new IllegalArgumentException("implausible length: " + lengthMetres + " m");
        }
        if (draughtMetres <= 0 || draughtMetres >= lengthMetres) {
            throw new IllegalArgumentException("implausible draught: " + draughtMetres + " m");
        }
        name = name.strip().toUpperCase(Locale.ROOT);
    }

    /** The six leading digits, weighted 7 down to 2, must end in the seventh. */
    static boolean isValidImo(int imo) {
        if (imo < 1_000_000 || imo > 9_999_999) {
            return false;
        }
        int check = imo % 10;
        int rest = imo / 10;
        int sum = 0;
        for (int weight = 2; weight <= 7; weight++) {
            sum += (rest % 10) * weight;
            rest /= 10;
        }
        return sum % 10 == check;
    }

    public boolean needsPilot() {
        return type.hazardous() || lengthMetres >= 90.0 || draughtMetres > 6.5;
    }

    public int tugsRequired(double windKnots) {
        int tugs;
        if (lengthMetres < 80) {
            tugs = 0;
        } else if (lengthMetres < 180) {
            tugs = 1;
        } else {
            tugs = lengthMetres < 300 ? 2 : 3;
        }
        if (windKnots > 25.0 && lengthMetres >= 120) {
            tugs++;
        }
        return tugs;
    }

    public enum VesselClass {
        CONTAINER('C', false),
        BULK_CARRIER('B', false),
        TANKER('T', true),
        LNG_CARRIER('G', true),
        FERRY('F', false),
        FISHING('S', false);

        private final char code;
        private final boolean hazardous;

        VesselClass(char code, boolean hazardous) {
            this.code = code;
            this.hazardous = hazardous;
        }

        public boolean hazardous() {
            return hazardous;
        }

        public char code() {
            return code;
        }

        public static VesselClass fromCode(char code) {
            for (VesselClass candidate : values()) {
                if (candidate.code == Character.toUpperCase(code)) {
                    return candidate;
                }
            }
            throw new IllegalArgumentException("unknown vessel class '" + code + "'");
        }
    }
}

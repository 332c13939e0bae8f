package harbour.berth;

import java.util.EnumSet;
import java.util.Set;

public record Berth(String id, double quayLength, double depthAtDatum, Set<Vessel.VesselClass> accepts) {

    /** Clearance kept at each end of a moored ship. */
    static final double END_CLEARANCE = 7.5;
    static final double UNDER_KEEL_RATIO = 0.10;

    public Berth {
        if (id == null || !id.matches("[A-Z]{1,2}\\d{1,2}")) {
            throw new IllegalArgumentException("bad berth id: " + id);
        }
        if (accepts.isEmpty()) {
            throw new IllegalArgumentException("berth " + id + " accepts nothing");
        }
        accepts = Set.copyOf(accepts);
    }

    public static Berth general(String id, double quayLength, double depth) {
        EnumSet<Vessel.VesselClass> dry = EnumSet.allOf(Vessel.VesselClass.class);
        dry.removeIf(Vessel.VesselClass::hazardous);
        return new Berth(id, quayLength, depth, dry);
    }

    public Fit check(Vessel vessel, double tideHeight) {
        if (!accepts.contains(vessel.type())) {
            return Fit.WRONG_CARGO;
        }
        if (vessel.lengthMetres() + 2 * END_CLEARANCE > quayLength) {
            return Fit.TOO_LONG;
        }
        double required = vessel.draughtMetres() * (1 + UNDER_KEEL_RATIO);
        if (required <= depthAtDatum) {
            return Fit.ANY_TIDE;
        }
        return required <= depthAtDatum + tideHeight ? Fit.AT_HIGH_WATER : Fit.TOO_DEEP;
    }

    public double slack(Vessel vessel) {
        return quayLength - vessel.lengthMetres() - 2 * END_CLEARANCE;
    }

    public enum Fit {
        ANY_TIDE, AT_HIGH_WATER, TOO_LONG, TOO_DEEP, WRONG_CARGO;

        public boolean usable() {
            return this == ANY_TIDE || this == AT_HIGH_WATER;
        }
    }
}

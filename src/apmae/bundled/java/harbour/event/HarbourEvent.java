package harbour.event;

import java.time.Instant;

public sealed interface HarbourEvent {

    Instant occurredAt();

    record BookingRequested(String reference, int imo, Instant eta, Instant occurredAt) implements HarbourEvent {
    }

    record BookingCancelled(String reference, String reason, boolean late, Instant occurredAt)
            implements HarbourEvent {
        public BookingCancelled {
            reason = reason == null || reason.isBlank() ? "unspecified" : reason.strip();
        }
    }

    record VesselMoored(int imo, String berthId, int minutesLate, Instant occurredAt) implements HarbourEvent {
    }

    record GaleWarning(int beaufort, Instant until, Instant occurredAt) implements HarbourEvent {
        public GaleWarning {
            if (beaufort < 7 || beaufort > 12) {
                throw new IllegalArgumentException("not a gale: force " + beaufort);
            }
        }

        public boolean closesPort() {
            return beaufort >= 10;
        }
    }

    /** One line for the duty log. */
    default String summary() {
        if (this instanceof BookingRequested r) {
            return r.reference + " requested for " + r.imo + ", eta " + r.eta;
        } else if (this instanceof BookingCancelled c) {
            return c.reference + " cancelled" + (c.late ? " late: " : ": ") + c.reason;
        } else if (this instanceof VesselMoored m && m.minutesLate > 0) {
            return m.imo + " moored at " + m.berthId + ", " + m.minutesLate + " min late";
        } else if (this instanceof VesselMoored m) {
            return m.imo + " moored at " + m.berthId + " on time";
        } else if (this instanceof GaleWarning g) {
            return "gale force " + g.beaufort + (g.closesPort() ? ", port closed until " : " until ") + g.until;
        }
        throw new AssertionError("unhandled event " + getClass());
    }
}

package harbour.tariff;

import harbour.berth.Vessel;

import java.time.DayOfWeek;
import java.time.Duration;
import java.time.ZonedDateTime;
import java.util.ArrayList;
import java.util.List;
import java.util.stream.Collectors;

/** Works out port dues. All money is in whole cents. */
public class TariffCalculator {

    private static final long PILOTAGE_BASE = 48_500L;
    private static final long TUG_HOUR = 131_250L;
    private static final int FREE_HOURS = 4;

    // Upper length bound in metres and the dues per started metre-day, in cents.
    private static final double[] LENGTH_BANDS = {50, 100, 200, 300, Double.MAX_VALUE};
    private static final int[] BAND_RATES = {85, 140, 215, 290, 365};

    private final double vatRate;
    private final boolean winterSurcharge;

    public TariffCalculator(double vatRate, boolean winterSurcharge) {
        if (vatRate < 0 || vatRate >= 1) {
            throw new IllegalArgumentException("VAT rate must be a fraction: " + vatRate);
        }
        this.vatRate = vatRate;
        this.winterSurcharge = winterSurcharge;
    }

    public Invoice price(Vessel vessel, ZonedDateTime from, ZonedDateTime to, double windKnots) {
        Duration stay = Duration.between(from, to);
        if (stay.isNegative() || stay.isZero()) {
            throw new IllegalArgumentException("stay has no length");
        }
        List<Line> lines = new ArrayList<>();
        lines.add(new Line("Quay dues", quayDues(vessel, stay)));
        if (vessel.needsPilot()) {
            long pilotage = PILOTAGE_BASE;
            if (isUnsociable(from)) {
                pilotage += pilotage / 2;
            }
            lines.add(new Line("Pilotage", pilotage));
        }
        int tugs = vessel.tugsRequired(windKnots);
        if (tugs > 0) {
            // in and out, one hour each
            lines.add(new Line(tugs + (tugs == 1 ? " tug" : " tugs"), 2L * tugs * TUG_HOUR));
        }
        long environmental = switch (vessel.type()) {
            case TANKER -> 92_000L;
            case LNG_CARRIER -> 118_000L;
            case BULK_CARRIER, CONTAINER -> Math.round(vessel.lengthMetres() * 110);
            case FERRY -> 9_900L;
            case FISHING -> 0L;
        };
        if (environmental != 0) {
            lines.add(new Line("Environmental levy", environmental));
        }
        if (winterSurcharge && (from.getMonthValue() <= 2 || from.getMonthValue() == 12)) {
            long subtotal = lines.stream().mapToLong(Line::cents).sum();
            lines.add(new Line("Ice surcharge 4.5%", Math.round(subtotal * 0.045)));
        }
        return new Invoice(List.copyOf(lines), vatRate);
    }

    private long quayDues(Vessel vessel, Duration stay) {
        long hours = Math.max(0, (stay.toMinutes() + 59) / 60 - FREE_HOURS);
        long days = (hours + 23) / 24;
        int metres = (int) Math.ceil(vessel.lengthMetres());
        long total = 0;
        for (long day = 1; day <= days; day++) {
            long dues = (long) metres * rateFor(vessel.lengthMetres());
            if (day > 7) {
                dues *= 2;
            } else if (day > 3) {
                dues += dues / 4;
            }
            total += dues;
        }
        return total;
    }

    private static int rateFor(double length) {
        int band = 0;
        while (length > LENGTH_BANDS[band]) {
            band++;
        }
        return BAND_RATES[band];
    }

    static boolean isUnsociable(ZonedDateTime at) {
        DayOfWeek day = at.getDayOfWeek();
        return day == DayOfWeek.SATURDAY || day == DayOfWeek.SUNDAY || at.getHour() < 6 || at.getHour() >= 22;
    }

    public record Line(String label, long cents) {
    }

    public record Invoice(List<Line> lines, double vatRate) {

        public long net() {
            return lines.stream().mapToLong(Line::cents).sum();
        }

        public long vat() {
            return Math.round(net() * vatRate);
        }

        public long gross() {
            return net() + vat();
        }

        public String render() {
            String body = lines.stream()
                    .map(line -> String.format("%-24s%12s", line.label(), euros(line.cents())))
                    .collect(Collectors.joining("\n"));
            return body + "\n" + "-".repeat(36) + "\n"
                    + String.format("%-24s%12s%n", "VAT", euros(vat()))
                    + String.format("%-24s%12s%n", "Total", euros(gross()));
        }

        private static String euros(long cents) {
            String sign = cents < 0 ? "-" : "";
            long abs = Math.abs(cents);
            return sign + abs / 100 + "." + (abs % 100 < 10 ? "0" : "") + abs % 100;
        }
    }
}

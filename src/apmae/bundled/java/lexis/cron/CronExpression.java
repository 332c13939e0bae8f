package lexis.cron;

import lexis.SyntaxException;

import java.time.LocalDateTime;
import java.time.temporal.ChronoUnit;
import java.util.List;
import java.util.Locale;
import java.util.Optional;

/**
 * Five-field cron expression. Every field is kept as a bit set in a long, which
 * makes matching a shift and a mask.
 */
public final class CronExpression {

    private static final int MAX_YEARS_AHEAD = 8;

    private enum Field {
        MINUTE(0, 59, ""),
        HOUR(0, 23, ""),
        DAY(1, 31, ""),
        MONTH(1, 12, "janfebmaraprmayjunjulaugsepoctnovdec"),
        WEEKDAY(0, 7, "sunmontuewedthufrisat");

        private final int lowest;
        private final int highest;
        private final String names;

        Field(int lowest, int highest, String names) {
            this.lowest = lowest;
            this.highest = highest;
            this.names = names;
        }
    }

    private final String source;
    private final long[] allowed = new long[Field.values().length];
    private final boolean eitherDay;

    private CronExpression(String source, String[] parts) {
        this.source = source;
        int column = 1;
        for (Field field : Field.values()) {
            allowed[field.ordinal()] = parseField(parts[field.ordinal()], field, column);
            column += parts[field.ordinal()].length() + 1;
        }
        // both 0 and 7 stand for Sunday
        if ((allowed[4] >>> 7 & 1) == 1) {
            allowed[4] = (allowed[4] | 1L) & 0x7FL;
        }
        this.eitherDay = !parts[2].startsWith("*") && !parts[4].startsWith("*");
    }

    public static CronExpression parse(String text) {
        String normal = switch (text.strip()) {
            case "@hourly" -> "0 * * * *";
            case "@daily", "@midnight" -> "0 0 * * *";
            case "@weekly" -> "0 0 * * 0";
            case "@monthly" -> "0 0 1 * *";
            case "@yearly", "@annually" -> "0 0 1 1 *";
            default -> text.strip().toLowerCase(Locale.ROOT);
        };
        String[] parts = normal.split("\\s+");
        if (parts.length != 5) {
            throw new SyntaxException("expected 5 fields, found " + parts.length, 1, 1);
        }
        return new CronExpression(text, parts);
    }

    private static long parseField(String text, Field field, int column) {
        long bits = 0L;
        for (String item : List.of(text.split(",", -1))) {
            int slash = item.indexOf('/');
            int step = 1;
            String range = item;
            if (slash >= 0) {
                step = number(item.substring(slash + 1), column);
                range = item.substring(0, slash);
                if (step == 0) {
                    throw new SyntaxException("step must not be zero", 1, column);
                }
            }
            int from;
            int to;
            int dash = range.indexOf('-');
            if (range.equals("*")) {
                from = field.lowest;
                to = field == Field.WEEKDAY ? 6 : field.highest;
            } else if (dash > 0) {
                from = value(range.substring(0, dash), field, column);
                to = value(range.substring(dash + 1), field, column);
            } else {
                from = value(range, field, column);
                to = slash >= 0 ? field.highest : from;
            }
            if (from > to) {
                throw new SyntaxException("range runs backwards: " + range, 1, column);
            }
            for (int i = from; i <= to; i += step) {
                bits |= 1L << i;
            }
        }
        return bits;
    }

    private static int value(String text, Field field, int column) {
        if (text.length() == 3 && Character.isLetter(text.charAt(0))) {
            int found = field.names.indexOf(text);
            if (found >= 0 && found % 3 == 0) {
                return found / 3 + field.lowest;
            }
        }
        int number = number(text, column);
        if (number < field.lowest || number > field.highest) {
            throw new SyntaxException(String.format("%s must be within %d-%d, not %d",
                    field.name().toLowerCase(Locale.ROOT), field.lowest, field.highest, number), 1, column);
        }
        return number;
    }

    private static int number(String text, int column) {
        int result = 0;
        if (text.isEmpty() || text.length() > 3) {
            throw new SyntaxException("number expected, found '" + text + "'", 1, column);
        }
        for (char c : text.toCharArray()) {
            if (c < '0' || c > '9') {
                throw new SyntaxException("number expected, found '" + text + "'", 1, column);
            }
            result = result * 10 + (c - '0');
        }
        return result;
    }

    public boolean matches(LocalDateTime time) {
        return has(Field.MINUTE, time.getMinute()) && has(Field.HOUR, time.getHour()) && matchesDay(time);
    }

    private boolean matchesDay(LocalDateTime time) {
        if (!has(Field.MONTH, time.getMonthValue())) {
            return false;
        }
        boolean day = has(Field.DAY, time.getDayOfMonth());
        boolean weekday = has(Field.WEEKDAY, time.getDayOfWeek().getValue() % 7);
        return eitherDay ? day || weekday : day && weekday;
    }

    private boolean has(Field field, int value) {
        return (allowed[field.ordinal()] >>> value & 1L) != 0;
    }

    /** First match strictly after the given time, or empty for dates like 31 February. */
    public Optional<LocalDateTime> nextAfter(LocalDateTime time) {
        LocalDateTime probe = time.truncatedTo(ChronoUnit.MINUTES).plusMinutes(1);
        LocalDateTime limit = probe.plusYears(MAX_YEARS_AHEAD);
        while (probe.isBefore(limit)) {
            if (!has(Field.MONTH, probe.getMonthValue())) {
                probe = probe.withDayOfMonth(1).truncatedTo(ChronoUnit.DAYS).plusMonths(1);
            } else if (!matchesDay(probe)) {
                probe = probe.truncatedTo(ChronoUnit.DAYS).plusDays(1);
            } else if (!has(Field.HOUR, probe.getHour())) {
                probe = probe.truncatedTo(ChronoUnit.HOURS).plusHours(1);
            } else {
                long later = allowed[Field.MINUTE.ordinal()] >>> probe.getMinute();
                if (later != 0) {
                    return Optional.of(probe.plusMinutes(Long.numberOfTrailingZeros(later)));
                }
                probe = probe.truncatedTo(ChronoUnit.HOURS).plusHours(1);
            }
        }
        return Optional.empty();
    }

    @Override
    public String toString() {
        return source;
    }
}

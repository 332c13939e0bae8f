package ledger;

import java.math.BigDecimal;
import java.math.RoundingMode;
import java.text.NumberFormat;
import java.time.LocalDate;
import java.time.format.DateTimeFormatter;
import java.util.ArrayList;
import java.util.Currency;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.TreeMap;

/** Lays an invoice out as monospaced text for e-mail bodies and the print queue. */
public class InvoiceRenderer {

    public record Item(String description, BigDecimal quantity, Money unitPrice, int discountPercent, int vatPercent) {
        public Money net() {
            BigDecimal keep = BigDecimal.valueOf(100L - discountPercent, 2);
            return unitPrice.times(quantity.multiply(keep), RoundingMode.HALF_UP);
        }
    }

    public record Invoice(String number, String customer, LocalDate issued, int dueInDays, Currency currency,
                          List<Item> items, boolean reverseCharge) {
        public LocalDate due() {
            return issued.plusDays(dueInDays);
        }
    }

    private static final int WIDTH = 72;
    private static final int AMOUNT_COLUMN = 14;
    private static final int TEXT_COLUMN = WIDTH - AMOUNT_COLUMN - 12;
    private static final String RULE = "-".repeat(WIDTH);

    private final Locale locale;
    private final DateTimeFormatter dates;

    public InvoiceRenderer(Locale locale) {
        this.locale = locale;
        this.dates = DateTimeFormatter.ofPattern("d MMMM yyyy", locale);
    }

    public String render(Invoice invoice) {
        StringBuilder page = new StringBuilder(2_048);
        page.append(spread("INVOICE " + invoice.number(), dates.format(invoice.issued())));
        page.append(invoice.customer().strip()).append('\n');
        page.append(RULE).append('\n');

        Money net = Money.zero(invoice.currency());
        Map<Integer, Money> netByRate = new TreeMap<>();
        for (Item item : invoice.items()) {
            Money line = item.net();
            net = net.plus(line);
            netByRate.merge(item.vatPercent(), line, Money::plus);
            appendItem(page, item, line);
        }
        page.append(RULE).append('\n');
        page.append(total("Subtotal", net));

        Money gross = net;
        if (invoice.reverseCharge()) {
            page.append("VAT reverse charged to the recipient\n");
        } else {
            for (Map.Entry<Integer, Money> e : netByRate.entrySet()) {
                if (e.getKey() == 0) {
                    continue;
                }
                Money vat = e.getValue().times(BigDecimal.valueOf(e.getKey(), 2), RoundingMode.HALF_UP);
                page.append(total("VAT " + e.getKey() + "% on " + format(e.getValue()), vat));
                gross = gross.plus(vat);
            }
        }
        page.append(total("Total " + invoice.currency().getCurrencyCode(), gross));
        page.append('\n').append(terms(invoice, gross)).append('\n');
        return page.toString();
    }

    private void appendItem(StringBuilder page, Item item, Money line) {
        String description = item.description();
        if (item.discountPercent() > 0) {
            description += " (less " + item.discountPercent() + "%)";
        }
        List<String> wrapped = wrap(description, TEXT_COLUMN);
        for (int i = 0; i < wrapped.size(); i++) {
            page.append(padRight(wrapped.get(i), TEXT_COLUMN));
            if (i == 0) {
                page.append(padLeft(item.quantity().stripTrailingZeros().toPlainString(), 12));
                page.append(padLeft(format(line), AMOUNT_COLUMN));
            }
            page.append('\n');
        }
    }

    private String terms(Invoice invoice, Money gross) {
        if (gross.isZero()) {
            return "No payment is due.";
        }
        if (gross.isNegative()) {
            return "This is a credit note; " + format(gross.abs()) + " will be refunded.";
        }
        return switch (invoice.dueInDays()) {
            case 0 -> "Payable on receipt.";
            case 1 -> "Payable by tomorrow, " + dates.format(invoice.due()) + ".";
            default -> "Payable within " + invoice.dueInDays() + " days, by " + dates.format(invoice.due()) + ".";
        };
    }

    private String format(Money money) {
        NumberFormat format = NumberFormat.getNumberInstance(locale);
        int digits = money.currency().getDefaultFractionDigits();
        format.setMinimumFractionDigits(digits);
        format.setMaximumFractionDigits(digits);
        return format.format(money.amount());
    }

    private String total(String label, Money amount) {
        return padLeft(label, WIDTH - AMOUNT_COLUMN) + padLeft(format(amount), AMOUNT_COLUMN) + "\n";
    }

    private static String spread(String left, String right) {
        int gap = Math.max(1, WIDTH - left.length() - right.length());
        return left + " ".repeat(gap) + right + "\n";
    }

    static List<String> wrap(String text, int width) {
        List<String> lines = new ArrayList<>();
        StringBuilder line = new StringBuilder();
        for (String word : text.strip().split("\\s+")) {
            if (line.length() > 0 && line.length() + 1 + word.length() > width) {
                lines.add(line.toString());
                line.setLength(0);
            }
            while (word.length() > width) {
                lines.add(word.substring(0, width - 1) + "-");
                word = word.substring(width - 1);
            }
            if (line.length() > 0) {
                line.append(' ');
            }
            line.append(word);
        }
        lines.add(line.toString());
        return lines;
    }

    private static String padLeft(String s, int width) {
        return s.length() >= width ? s : " ".repeat(width - s.length()) + s;
    }

    private static String padRight(String s, int width) {
        return s.length() >= width ? s : s + " ".repeat(width - s.length());
    }
}

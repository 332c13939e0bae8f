package ledger;

import java.time.LocalDate;
import java.util.ArrayList;
import java.util.Collection;
import java.util.Collections;
import java.util.Comparator;
import java.util.Currency;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.NoSuchElementException;
import java.util.TreeMap;
import java.util.stream.Collectors;

/** Double-entry book in a single currency. Posted transactions are immutable; mistakes are reversed. */
public class GeneralLedger {

    public enum Kind {
        ASSET(true), EXPENSE(true), LIABILITY(false), EQUITY(false), INCOME(false);

        private final boolean debitNormal;

        Kind(boolean debitNormal) {
            this.debitNormal = debitNormal;
        }

        boolean isBalanceSheet() {
            return this != EXPENSE && this != INCOME;
        }
    }

    public record Account(String code, String title, Kind kind, boolean allowsOverdraft) {
    }

    /** One leg of a transaction: debits are positive, credits negative. */
    public record Posting(String accountCode, Money amount) {
        public static Posting debit(String account, Money amount) {
            return new Posting(account, amount);
        }

        public static Posting credit(String account, Money amount) {
            return new Posting(account, amount.negate());
        }
    }

    public record Transaction(long id, LocalDate date, String memo, List<Posting> postings, long reverses) {
        public boolean isReversal() {
            return reverses != 0;
        }
    }

    public static class PostingRejectedException extends RuntimeException {
        private static final long serialVersionUID = 1L;

        PostingRejectedException(String reason) {
            super(reason);
        }
    }

    private final Currency currency;
    private final Map<String, Account> accounts = new TreeMap<>();
    private final Map<String, Money> balances = new HashMap<>();
    private final List<Transaction> journal = new ArrayList<>();
    private LocalDate closedThrough = LocalDate.MIN;

    public GeneralLedger(Currency currency) {
        this.currency = currency;
    }

    public synchronized Account openAccount(String code, String title, Kind kind, boolean allowsOverdraft) {
        Account account = new Account(code, title, kind, allowsOverdraft);
        if (accounts.putIfAbsent(code, account) != null) {
            throw new IllegalArgumentException("account " + code + " already exists");
        }
        balances.put(code, Money.zero(currency));
        return account;
    }

    public Transaction post(LocalDate date, String memo, Posting... legs) {
        return post(date, memo, List.of(legs), 0L);
    }

    private synchronized Transaction post(LocalDate date, String memo, List<Posting> legs, long reverses) {
        if (!date.isAfter(closedThrough)) {
            throw new PostingRejectedException("period through " + closedThrough + " is closed");
        }
        if (legs.size() < 2) {
            throw new PostingRejectedException("a transaction needs at least two legs");
        }

        Money sum = Money.zero(currency);
        Map<String, Money> after = new LinkedHashMap<>();
        for (Posting leg : legs) {
            requireAccount(leg.accountCode());
            sum = sum.plus(leg.amount());
            Money start = after.getOrDefault(leg.accountCode(), balances.get(leg.accountCode()));
            after.put(leg.accountCode(), start.plus(leg.amount()));
        }
        if (!sum.isZero()) {
            throw new PostingRejectedException("legs are out of balance by " + sum);
        }
        after.forEach((code, balance) -> {
            Account account = accounts.get(code);
            Money natural = natural(account, balance);
            if (!account.allowsOverdraft() && natural.isNegative()) {
                throw new PostingRejectedException(account.title() + " would be overdrawn to " + natural);
            }
        });

        // Nothing below can fail, so the book never holds half a transaction.
        balances.putAll(after);
        Transaction posted = new Transaction(journal.size() + 1L, date, memo, List.copyOf(legs), reverses);
        journal.add(posted);
        return posted;
    }

    public synchronized Transaction reverse(long transactionId, LocalDate date) {
        if (transactionId < 1 || transactionId > journal.size()) {
            throw new NoSuchElementException("transaction " + transactionId);
        }
        Transaction original = journal.get((int) transactionId - 1);
        boolean already = journal.stream().anyMatch(t -> t.reverses() == transactionId);
        if (already || original.isReversal()) {
            throw new PostingRejectedException("transaction " + transactionId + " cannot be reversed again");
        }
        List<Posting> mirrored = original.postings().stream()
                .map(p -> new Posting(p.accountCode(), p.amount().negate()))
                .toList();
        return post(date, "Reversal of #" + transactionId + ": " + original.memo(), mirrored, transactionId);
    }

    public synchronized Money balance(String code) {
        return natural(requireAccount(code), balances.get(code));
    }

    public synchronized Money balanceAsOf(String code, LocalDate date) {
        Account account = requireAccount(code);
        Money raw = journal.stream()
                .filter(t -> !t.date().isAfter(date))
                .flatMap(t -> t.postings().stream())
                .filter(p -> p.accountCode().equals(code))
                .map(Posting::amount)
                .reduce(Money.zero(currency), Money::plus);
        return natural(account, raw);
    }

    public synchronized Map<Kind, Money> trialBalance() {
        return accounts.values().stream().collect(Collectors.groupingBy(
                Account::kind,
                TreeMap::new,
                Collectors.reducing(Money.zero(currency), a -> balance(a.code()), Money::plus)));
    }

    /** Moves income and expense into retained earnings and locks every date up to {@code yearEnd}. */
    public synchronized Money closeYear(LocalDate yearEnd, String retainedEarnings) {
        List<Posting> legs = new ArrayList<>();
        Money carried = Money.zero(currency);
        for (Account account : accounts.values()) {
            Money raw = balances.get(account.code());
            if (account.kind().isBalanceSheet() || raw.isZero()) {
                continue;
            }
            legs.add(new Posting(account.code(), raw.negate()));
            carried = carried.plus(raw);
        }
        if (!legs.isEmpty()) {
            legs.add(new Posting(retainedEarnings, carried));
            post(yearEnd, "Year-end close " + yearEnd.getYear(), legs, 0L);
        }
        closedThrough = yearEnd;
        return carried.negate();
    }

    public synchronized Collection<Transaction> history(String code, int limit) {
        List<Transaction> touching = journal.stream()
                .filter(t -> t.postings().stream().anyMatch(p -> p.accountCode().equals(code)))
                .sorted(Comparator.comparing(Transaction::date).thenComparingLong(Transaction::id).reversed())
                .limit(limit)
                .collect(Collectors.toCollection(ArrayList::new));
        Collections.reverse(touching);
        return touching;
    }

    private Account requireAccount(String code) {
        Account account = accounts.get(code);
        if (account == null) {
            throw new NoSuchElementException("no account with code '" + code + "'");
        }
        return account;
    }

    private static Money natural(Account account, Money raw) {
        return account.kind().debitNormal ? raw : raw.negate();
    }
}

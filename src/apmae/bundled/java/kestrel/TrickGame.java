package kestrel;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.Comparator;
import java.util.List;
import java.util.Objects;
import kestrel.Cards.Card;
import kestrel.Cards.Deck;
import kestrel.Cards.Hand;
import kestrel.Cards.Rank;
import kestrel.Cards.Suit;

/**
 * Four-handed trick taking in which hearts cost a point each and the queen of
 * spades costs thirteen. Taking all of them turns the penalty on everyone else.
 */
public final class TrickGame {

    public interface Player {
        String name();

        Card choose(List<Card> legal, Trick trick);
    }

    public static final class IllegalPlayException extends RuntimeException {
        private static final long serialVersionUID = 1L;

        IllegalPlayException(Player player, Card card, String reason) {
            super(player.name() + " may not play " + card + ": " + reason);
        }
    }

    public static final class Trick {
        private final int leader;
        private final List<Card> played = new ArrayList<>(SEATS);

        Trick(int leader) {
            this.leader = leader;
        }

        public Suit ledSuit() {
            return played.isEmpty() ? null : played.get(0).suit();
        }

        int seatToPlay() {
            return (leader + played.size()) % SEATS;
        }

        int winner() {
            int best = 0;
            for (int i = 1; i < played.size(); i++) {
                Card card = played.get(i);
                if (card.suit() == ledSuit() && card.rank().beats(played.get(best).rank())) {
                    best = i;
                }
            }
            return (leader + best) % SEATS;
        }

        /** True if the card would currently take the trick. */
        public boolean wouldWin(Card card) {
            if (played.isEmpty()) {
                return true;
            }
            return card.suit() == ledSuit()
                    && played.stream().noneMatch(c -> c.suit() == card.suit() && c.rank().beats(card.rank()));
        }

        public int penalty() {
            return played.stream().mapToInt(TrickGame::penalty).sum();
        }
    }

    private static final int SEATS = 4;
    private static final int MOON = 26;
    private static final Card BLACK_QUEEN = new Card(Rank.QUEEN, Suit.SPADES);

    private final Player[] players;
    private final int[] totals = new int[SEATS];
    private boolean heartsBroken;

    public TrickGame(Player... players) {
        if (players.length != SEATS) {
            throw new IllegalArgumentException("need exactly four players, got " + players.length);
        }
        this.players = players.clone();
    }

    static int penalty(Card card) {
        if (card.equals(BLACK_QUEEN)) {
            return 13;
        }
        return card.suit() == Suit.HEARTS ? 1 : 0;
    }

    public int[] playRound(long seed) {
        List<Hand> hands = Deck.full().shuffled(seed).deal(SEATS, 13);
        int[] taken = new int[SEATS];
        int leader = (int) Math.floorMod(seed, (long) SEATS);
        heartsBroken = false;
        for (int n = 0; n < 13; n++) {
            Trick trick = new Trick(leader);
            while (trick.played.size() < SEATS) {
                int seat = trick.seatToPlay();
                playCard(players[seat], hands.get(seat), trick);
            }
            leader = trick.winner();
            taken[leader] += trick.penalty();
        }
        settle(taken);
        for (int seat = 0; seat < SEATS; seat++) {
            totals[seat] += taken[seat];
        }
        return taken;
    }

    private void playCard(Player player, Hand hand, Trick trick) {
        List<Card> legal = legal(hand, trick);
        Card card = Objects.requireNonNull(player.choose(legal, trick), player.name() + " played nothing");
        if (!legal.contains(card)) {
            String reason = hand.all().contains(card) ? "it does not follow the rules of the trick" : "it is not held";
            throw new IllegalPlayException(player, card, reason);
        }
        hand.play(card);
        trick.played.add(card);
        heartsBroken |= card.suit() == Suit.HEARTS;
    }

    List<Card> legal(Hand hand, Trick trick) {
        Suit led = trick.ledSuit();
        if (led != null) {
            return hand.has(led) ? hand.of(led) : hand.all();
        }
        if (heartsBroken) {
            return hand.all();
        }
        List<Card> others = hand.all().stream().filter(c -> c.suit() != Suit.HEARTS).toList();
        return others.isEmpty() ? hand.all() : others;
    }

    private static void settle(int[] taken) {
        for (int seat = 0; seat < SEATS; seat++) {
            if (taken[seat] == MOON) {
                Arrays.fill(taken, MOON);
                taken[seat] = 0;
                return;
            }
        }
    }

    public int[] playTo(int limit, long seed) {
        while (Arrays.stream(totals).max().getAsInt() < limit) {
            playRound(seed);
            seed = Long.rotateLeft(seed, 17) + 1;
        }
        return totals.clone();
    }

    /** Ducks under the winning card when possible, and sheds the most dangerous card otherwise. */
    public record CautiousPlayer(String name) implements Player {
        @Override
        public Card choose(List<Card> legal, Trick trick) {
            Comparator<Card> byRank = Comparator.comparing(Card::rank);
            if (trick.ledSuit() == null) {
                return legal.stream().min(byRank).orElseThrow();
            }
            return legal.stream()
                    .filter(card -> !trick.wouldWin(card))
                    .max(Comparator.comparingInt((Card c) -> TrickGame.penalty(c)).thenComparing(byRank))
                    .orElseGet(() -> legal.stream().min(byRank).orElseThrow());
        }
    }
}

package kestrel;

import java.util.ArrayList;
import java.util.Collections;
import java.util.Comparator;
import java.util.EnumMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.NoSuchElementException;
import java.util.Random;

/** Playing cards, decks and hands. */
public final class Cards {

    private Cards() {}

    public enum Suit {
        CLUBS, DIAMONDS, HEARTS, SPADES;

        public boolean isRed() {
            return this == DIAMONDS || this == HEARTS;
        }

        char letter() {
            return name().charAt(0);
        }
    }

    public enum Rank {
        TWO, THREE, FOUR, FIVE, SIX, SEVEN, EIGHT, NINE, TEN, JACK, QUEEN, KING, ACE;

        public String symbol() {
            return switch (this) {
                case JACK, QUEEN, KING, ACE -> name().substring(0, 1);
                default -> Integer.toString(ordinal() + 2);
            };
        }

        public boolean beats(Rank other) {
            return compareTo(other) > 0;
        }
    }

    public record Card(Rank rank, Suit suit) implements Comparable<Card> {
        private static final Comparator<Card> ORDER = Comparator.comparing(Card::suit).thenComparing(Card::rank);

        @Override
        public int compareTo(Card other) {
            return ORDER.compare(this, other);
        }

        public static Card parse(String code) {
            String text = code.trim().toUpperCase(Locale.ROOT);
            if (text.length() >= 2) {
                String symbol = text.substring(0, text.length() - 1);
                char letter = text.charAt(text.length() - 1);
                for (Suit suit : Suit.values()) {
                    for (Rank rank : Rank.values()) {
                        if (suit.letter() == letter && rank.symbol().equals(symbol)) {
                            return new Card(rank, suit);
                        }
                    }
                }
            }
            throw new IllegalArgumentException("not a card: \"" + code + "\"");
        }

        @Override
        public String toString() {
            return rank.symbol() + suit.letter();
        }
    }

    public static final class Deck {
        private final List<Card> cards;

        private Deck(List<Card> cards) {
            this.cards = cards;
        }

        public static Deck full() {
            List<Card> cards = new ArrayList<>(52);
            for (Suit suit : Suit.values()) {
                for (Rank rank : Rank.values()) {
                    cards.add(new Card(rank, suit));
                }
            }
            return new Deck(cards);
        }

        public Deck shuffled(long seed) {
            List<Card> copy = new ArrayList<>(cards);
            Collections.shuffle(copy, new Random(seed));
            return new Deck(copy);
        }

        public Card draw() {
            if (cards.isEmpty()) {
                throw new NoSuchElementException("the deck is exhausted");
            }
            return cards.remove(cards.size() - 1);
        }

        public List<Hand> deal(int players, int cardsEach) {
            if (players * cardsEach > cards.size()) {
                throw new IllegalArgumentException(
                        "cannot deal " + cardsEach + " cards to " + players + " players from " + cards.size());
            }
            List<Hand> hands = new ArrayList<>();
            for (int p = 0; p < players; p++) {
                hands.add(new Hand());
            }
            for (int i = 0; i < players * cardsEach; i++) {
                hands.get(i % players).take(draw());
            }
            return hands;
        }

        public int remaining() {
            return cards.size();
        }
    }

    /** Cards held by one player, grouped by suit and kept in ascending rank. */
    public static final class Hand {
        private final Map<Suit, List<Card>> bySuit = new EnumMap<>(Suit.class);

        void take(Card card) {
            List<Card> held = bySuit.computeIfAbsent(card.suit(), s -> new ArrayList<>());
            int slot = Collections.binarySearch(held, card);
            if (slot >= 0) {
                throw new IllegalStateException("duplicate " + card);
            }
            held.add(-slot - 1, card);
        }

        boolean play(Card card) {
            List<Card> held = bySuit.get(card.suit());
            return held != null && held.remove(card);
        }

        public boolean has(Suit suit) {
            return !bySuit.getOrDefault(suit, List.of()).isEmpty();
        }

        public List<Card> of(Suit suit) {
            return List.copyOf(bySuit.getOrDefault(suit, List.of()));
        }

        public List<Card> all() {
            return bySuit.values().stream().flatMap(List::stream).toList();
        }

        public int size() {
            return bySuit.values().stream().mapToInt(List::size).sum();
        }

        @Override
        public String toString() {
            return all().toString();
        }
    }
}

package kestrel;

import java.util.ArrayList;
import java.util.Comparator;
import java.util.Iterator;
import java.util.List;
import java.util.Optional;
import java.util.function.ToIntFunction;

/**
 * Decides whose turn is next. Each actor accumulates energy at its own speed and
 * acts on reaching the threshold, so fast actors simply come round more often.
 */
public class TurnScheduler<A> {

    public static final int THRESHOLD = 1_000;

    /** What an actor did with its turn, which determines the energy it spends. */
    public sealed interface Action permits Move, Strike, Rest, Prepare {
        int cost();
    }

    public record Move(int distance) implements Action {
        @Override
        public int cost() {
            return 250 + 150 * distance;
        }
    }

    public record Strike(boolean heavy) implements Action {
        @Override
        public int cost() {
            return heavy ? 1_400 : 900;
        }
    }

    public record Rest() implements Action {
        @Override
        public int cost() {
            return THRESHOLD / 2;
        }
    }

    /** Holds back part of the turn, keeping the bonus as energy towards the next one. */
    public record Prepare(int bonus) implements Action {
        @Override
        public int cost() {
            return THRESHOLD - bonus;
        }
    }

    private final class Slot {
        final A actor;
        final int order;
        int energy;
        int stunned = 0;

        Slot(A actor, int order, int energy) {
            this.actor = actor;
            this.order = order;
            this.energy = energy;
        }
    }

    private final ToIntFunction<A> speed;
    private final List<Slot> slots = new ArrayList<>();
    private int joined = 0;
    private long ticks = 0L;
    private Slot acting;

    public TurnScheduler(ToIntFunction<A> speed) {
        this.speed = speed;
    }

    public void join(A actor, boolean ambush) {
        if (find(actor).isPresent()) {
            throw new IllegalArgumentException(actor + " is already taking part");
        }
        slots.add(new Slot(actor, joined++, ambush ? THRESHOLD : 0));
    }

    public boolean leave(A actor) {
        if (acting != null && acting.actor.equals(actor)) {
            acting = null;
        }
        for (Iterator<Slot> it = slots.iterator(); it.hasNext(); ) {
            if (it.next().actor.equals(actor)) {
                it.remove();
                return true;
            }
        }
        return false;
    }

    public void stun(A actor, int turns) {
        Slot slot = find(actor).orElseThrow(() -> new IllegalArgumentException("unknown actor " + actor));
        slot.stunned = Math.max(slot.stunned, turns);
    }

    /** Advances time until somebody can act, and returns that actor. */
    public A next() {
        if (acting != null) {
            throw new IllegalStateException(acting.actor + " has not finished its turn");
        }
        if (slots.isEmpty()) {
            throw new IllegalStateException("nobody is taking part");
        }
        while (true) {
            Optional<Slot> ready = slots.stream()
                    .filter(s -> s.energy >= THRESHOLD)
                    .min(Comparator.comparingInt((Slot s) -> -s.energy).thenComparingInt(s -> s.order));
            if (ready.isEmpty()) {
                advance();
                continue;
            }
            Slot slot = ready.get();
            if (slot.stunned > 0) {
                slot.stunned--;
                slot.energy -= THRESHOLD;
                continue;
            }
            acting = slot;
            return slot.actor;
        }
    }

    // Jump straight to the first tick on which any actor is ready.
    private void advance() {
        int wait = Integer.MAX_VALUE;
        for (Slot slot : slots) {
            int rate = speed.applyAsInt(slot.actor);
            if (rate > 0) {
                int missing = THRESHOLD - slot.energy;
                wait = Math.min(wait, (missing + rate - 1) / rate);
            }
        }
        if (wait == Integer.MAX_VALUE) {
            throw new IllegalStateException("every actor is immobile");
        }
        for (Slot slot : slots) {
            slot.energy += wait * Math.max(0, speed.applyAsInt(slot.actor));
        }
        ticks += wait;
    }

    public void finish(Action action) {
        if (acting == null) {
            throw new IllegalStateException("no turn is in progress");
        }
        acting.energy -= action.cost();
        if (action instanceof Prepare p && p.bonus() > THRESHOLD / 2) {
            acting.energy = Math.min(acting.energy, THRESHOLD - 1);
        }
        acting = null;
    }

    private Optional<Slot> find(A actor) {
        return slots.stream().filter(s -> s.actor.equals(actor)).findAny();
    }

    public long ticks() {
        return ticks;
    }

    public int size() {
        return slots.size();
    }
}

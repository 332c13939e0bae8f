package kestrel;

import java.util.ArrayList;
import java.util.EnumMap;
import java.util.EnumSet;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.function.BiPredicate;
import java.util.function.Consumer;

/**
 * Finite state machine over an enum of states and a hierarchy of event types.
 *
 * @param <S> the states
 * @param <E> the common supertype of events
 */
public final class StateMachine<S extends Enum<S>, E> {

    private record Transition<S, E>(Class<? extends E> trigger, BiPredicate<S, E> guard, S target) {
        boolean accepts(S state, E event) {
            return trigger.isInstance(event) && guard.test(state, event);
        }
    }

    public static final class Builder<S extends Enum<S>, E> {
        private final Class<S> states;
        private final Map<S, List<Transition<S, E>>> table;
        private final Map<S, List<Consumer<E>>> onEnter = new HashMap<>();
        private final Set<S> terminal;

        private Builder(Class<S> states) {
            this.states = states;
            this.table = new EnumMap<>(states);
            this.terminal = EnumSet.noneOf(states);
        }

        public Builder<S, E> on(S from, Class<? extends E> trigger, S target) {
            return on(from, trigger, (state, event) -> true, target);
        }

        public Builder<S, E> on(S from, Class<? extends E> trigger, BiPredicate<S, E> guard, S target) {
            table.computeIfAbsent(from, s -> new ArrayList<>()).add(new Transition<>(trigger, guard, target));
            return this;
        }

        public Builder<S, E> entering(S state, Consumer<E> action) {
            onEnter.computeIfAbsent(state, s -> new ArrayList<>()).add(action);
            return this;
        }

        public Builder<S, E> terminal(S state) {
            terminal.add(state);
            return this;
        }

        public StateMachine<S, E> startingAt(S initial) {
            for (S state : terminal) {
                if (table.containsKey(state)) {
                    throw new IllegalStateException(state + " is terminal but has outgoing transitions");
                }
            }
            Set<S> unreachable = EnumSet.complementOf(reachableFrom(initial));
            if (!unreachable.isEmpty()) {
                throw new IllegalStateException("unreachable from " + initial + ": " + unreachable);
            }
            return new StateMachine<>(this, initial);
        }

        private EnumSet<S> reachableFrom(S initial) {
            EnumSet<S> reached = EnumSet.of(initial);
            boolean grew = true;
            while (grew) {
                grew = false;
                for (S state : EnumSet.copyOf(reached)) {
                    for (Transition<S, E> t : table.getOrDefault(state, List.of())) {
                        grew |= reached.add(t.target());
                    }
                }
            }
            return reached;
        }
    }

    private final Map<S, List<Transition<S, E>>> table;
    private final Map<S, List<Consumer<E>>> onEnter;
    private final Set<S> terminal;
    private final Map<S, Integer> visits;
    private S current;
    private boolean dispatching = false;

    private StateMachine(Builder<S, E> builder, S initial) {
        this.table = builder.table;
        this.onEnter = builder.onEnter;
        this.terminal = builder.terminal;
        this.visits = new EnumMap<>(builder.states);
        this.current = initial;
        this.visits.put(initial, 1);
    }

    public static <S extends Enum<S>, E> Builder<S, E> over(Class<S> states) {
        return new Builder<>(states);
    }

    /** Takes the first matching transition. Returns false when the event means nothing here. */
    public boolean fire(E event) {
        if (dispatching) {
            throw new IllegalStateException("fire() called from inside an entry action of " + current);
        }
        for (Transition<S, E> transition : table.getOrDefault(current, List.of())) {
            if (!transition.accepts(current, event)) {
                continue;
            }
            current = transition.target();
            visits.merge(current, 1, Integer::sum);
            dispatching = true;
            try {
                onEnter.getOrDefault(current, List.of()).forEach(action -> action.accept(event));
            } finally {
                dispatching = false;
            }
            return true;
        }
        return false;
    }

    public S current() {
        return current;
    }

    public boolean isFinished() {
        return terminal.contains(current);
    }

    public int visits(S state) {
        return visits.getOrDefault(state, 0);
    }
}

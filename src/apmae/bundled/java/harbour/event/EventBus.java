package harbour.event;

import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Deque;
import java.util.List;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.atomic.AtomicLong;
import java.util.function.BiConsumer;
import java.util.function.Consumer;

/**
 * Synchronous, in-process dispatch. A handler that publishes while handling does
 * not recurse: its event is queued and delivered once the current one is done.
 */
public final class EventBus {

    private static final int MAX_CASCADE = 256;

    private final List<Subscription<?>> subscriptions = new CopyOnWriteArrayList<>();
    private final ThreadLocal<Deque<HarbourEvent>> pending = new ThreadLocal<>();
    private final BiConsumer<HarbourEvent, RuntimeException> onFailure;
    private final AtomicLong delivered = new AtomicLong();

    public EventBus(BiConsumer<HarbourEvent, RuntimeException> onFailure) {
        this.onFailure = onFailure;
    }

    public <E extends HarbourEvent> AutoCloseable subscribe(Class<E> type, Consumer<? super E> handler) {
        return subscribe(type, 0, handler);
    }

    public <E extends HarbourEvent> AutoCloseable subscribe(Class<E> type, int priority,
                                                            Consumer<? super E> handler) {
        Subscription<E> added = new Subscription<>(type, priority, handler);
        synchronized (subscriptions) {
            int at = 0;
            while (at < subscriptions.size() && subscriptions.get(at).priority >= priority) {
                at++;
            }
            subscriptions.add(at, added);
        }
        return () -> {
            synchronized (subscriptions) {
                subscriptions.remove(added);
            }
        };
    }

    public void publish(HarbourEvent event) {
        Deque<HarbourEvent> queue = pending.get();
        if (queue != null) {
            queue.addLast(event);
            return;
        }
        queue = new ArrayDeque<>();
        queue.addLast(event);
        pending.set(queue);
        int handled = 0;
        try {
            while (!queue.isEmpty()) {
                if (++handled > MAX_CASCADE) {
                    throw new IllegalStateException("event cascade did not settle after " + MAX_CASCADE);
                }
                deliver(queue.removeFirst());
            }
        } finally {
            pending.remove();
        }
    }

    private void deliver(HarbourEvent event) {
        for (Subscription<?> subscription : subscriptions) {
            try {
                if (subscription.offer(event)) {
                    delivered.incrementAndGet();
                }
            } catch (RuntimeException e) {
                onFailure.accept(event, e);
            }
        }
    }

    public long deliveredCount() {
        return delivered.get();
    }

    public List<String> describe() {
        List<String> lines = new ArrayList<>(subscriptions.size());
        for (Subscription<?> s : subscriptions) {
            lines.add(String.format("%-18s priority %+d", s.type.getSimpleName(), s.priority));
        }
        return lines;
    }

    private static final class Subscription<E extends HarbourEvent> {
        private final Class<E> type;
        private final int priority;
        private final Consumer<? super E> handler;

        Subscription(Class<E> type, int priority, Consumer<? super E> handler) {
            this.type = type;
            this.priority = priority;
            this.handler = handler;
        }

        boolean offer(HarbourEvent event) {
            if (!type.isInstance(event)) {
                return false;
            }
            handler.accept(type.cast(event));
            return true;
        }
    }
}

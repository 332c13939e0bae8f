package granary;

import java.util.Arrays;
import java.util.HashMap;
import java.util.Map;
import java.util.Objects;
import java.util.OptionalLong;

/**
 * Runs jobs in order of due time, then urgency, then submission. Time is whatever the caller says
 * it is, so that a test can step through a week in a millisecond.
 */
public class DeadlineScheduler {

    public enum Urgency {
        BACKGROUND, NORMAL, CRITICAL;

        boolean beats(Urgency other) {
            return ordinal() > other.ordinal();
        }
    }

    @FunctionalInterface
    public interface Job {
        /** Answers how many milliseconds from now to run again; zero or less means never. */
        long run(long now) throws Exception;
    }

    public static class JobFailedException extends RuntimeException {
        private static final long serialVersionUID = 1L;
        private final long ticket;

        JobFailedException(long ticket, Throwable cause) {
            super("job #" + ticket + " failed: " + cause.getMessage(), cause);
            this.ticket = ticket;
        }

        public long ticket() {
            return ticket;
        }
    }

    private static final int MAX_ATTEMPTS = 4;
    private static final long BASE_BACKOFF_MS = 250L;

    private static final class Slot {
        final long ticket;
        final Job job;
        Urgency urgency;
        long due;
        int attempts = 0;
        int heapIndex = -1;

        Slot(long ticket, Job job, Urgency urgency, long due) {
            this.ticket = ticket;
            this.job = job;
            this.urgency = urgency;
            this.due = due;
        }

        boolean precedes(Slot other) {
            if (due != other.due) {
                return due < other.due;
            }
            if (urgency != other.urgency) {
                return urgency.beats(other.urgency);
            }
            return ticket < other.ticket;
        }
    }

    private final Map<Long, Slot> byTicket = new HashMap<>();
    private Slot[] heap = new Slot[32];
    private int count;
    private long nextTicket = 1;

    public long submit(long due, Urgency urgency, Job job) {
        Objects.requireNonNull(job, "job");
        Slot slot = new Slot(nextTicket++, job, urgency, due);
        byTicket.put(slot.ticket, slot);
        push(slot);
        return slot.ticket;
    }

    public boolean cancel(long ticket) {
        Slot slot = byTicket.remove(ticket);
        if (slot == null) {
            return false;
        }
        if (slot.heapIndex >= 0) {
            removeAt(slot.heapIndex);
        }
        return true;
    }

    public boolean reschedule(long ticket, long due, Urgency urgency) {
        Slot slot = byTicket.get(ticket);
        if (slot == null || slot.heapIndex < 0) {
            return false;
        }
        slot.due = due;
        slot.urgency = urgency;
        if (!siftUp(slot.heapIndex)) {
            siftDown(slot.heapIndex);
        }
        return true;
    }

    public OptionalLong nextDue() {
        return count == 0 ? OptionalLong.empty() : OptionalLong.of(heap[0].due);
    }

    /**
     * Runs what is due at {@code now}, at most {@code budget} jobs. A job that throws is put back
     * with a growing delay, and after its last attempt the failure reaches the caller.
     */
    public int runDue(long now, int budget) {
        int ran = 0;
        while (ran < budget && count > 0 && heap[0].due <= now) {
            Slot slot = heap[0];
            removeAt(0);
            ran++;
            long again;
            try {
                again = slot.job.run(now);
                slot.attempts = 0;
            } catch (Exception e) {
                if (++slot.attempts >= MAX_ATTEMPTS) {
                    byTicket.remove(slot.ticket);
                    throw new JobFailedException(slot.ticket, e);
                }
                again = BASE_BACKOFF_MS << slot.attempts;
            }
            // a job may have cancelled itself while it ran
            if (again > 0 && byTicket.containsKey(slot.ticket)) {
                slot.due = now + again;
                push(slot);
            } else {
                byTicket.remove(slot.ticket);
            }
        }
        return ran;
    }

    public int pending() {
        return count;
    }

    private void push(Slot slot) {
        if (count == heap.length) {
            heap = Arrays.copyOf(heap, count + (count >> 1));
        }
        place(slot, count++);
        siftUp(slot.heapIndex);
    }

    private void removeAt(int i) {
        heap[i].heapIndex = -1;
        Slot last = heap[--count];
        heap[count] = null;
        if (i != count) {
            place(last, i);
            if (!siftUp(i)) {
                siftDown(i);
            }
        }
    }

    private boolean siftUp(int i) {
        Slot slot = heap[i];
        int start = i;
        while (i > 0) {
            int parent = (i - 1) >>> 1;
            if (!slot.precedes(heap[parent])) {
                break;
            }
            place(heap[parent], i);
            i = parent;
        }
        place(slot, i);
        return i != start;
    }

    private void siftDown(int i) {
        Slot slot = heap[i];
        for (int child = 2 * i + 1; child < count; child = 2 * i + 1) {
            if (child + 1 < count && heap[child + 1].precedes(heap[child])) {
                child++;
            }
            if (!heap[child].precedes(slot)) {
                break;
            }
            place(heap[child], i);
            i = child;
        }
        place(slot, i);
    }

    private void place(Slot slot, int i) {
        heap[i] = slot;
        slot.heapIndex = i;
    }
}

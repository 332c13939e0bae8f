package granary;

import java.util.AbstractCollection;
import java.util.Arrays;
import java.util.ConcurrentModificationException;
import java.util.Iterator;
import java.util.NoSuchElementException;
import java.util.function.Predicate;

/** A bounded FIFO whose capacity is rounded up to a power of two so that wrapping is a mask. */
public class RingBuffer<E> extends AbstractCollection<E> {

    /** What {@link #offer} does when there is no room left. */
    public enum Overflow {
        REJECT,
        DROP_OLDEST,
        GROW
    }

    private static final int MAX_CAPACITY = 1 << 28;

    private Object[] slots;
    private int mask;
    private int head;
    private int size;
    private long dropped;
    private int version;
    private final Overflow policy;

    public RingBuffer(int capacity) {
        this(capacity, Overflow.DROP_OLDEST);
    }

    public RingBuffer(int capacity, Overflow policy) {
        if (capacity < 1 || capacity > MAX_CAPACITY) {
            throw new IllegalArgumentException("capacity out of range: " + capacity);
        }
        int rounded = capacity == 1 ? 1 : Integer.highestOneBit(capacity - 1) << 1;
        this.slots = new Object[rounded];
        this.mask = rounded - 1;
        this.policy = policy;
    }

    public boolean offer(E element) {
        if (element == null) {
            throw new NullPointerException("ring buffer does not hold nulls");
        }
        if (size == slots.length) {
            switch (policy) {
                case REJECT:
                    dropped++;
                    return false;
                case DROP_OLDEST:
                    slots[head] = null;
                    head = (head + 1) & mask;
                    size--;
                    dropped++;
                    break;
                case GROW:
                    if (slots.length >= MAX_CAPACITY) {
                        return false;
                    }
                    resize(slots.length << 1);
                    break;
                default:
                    throw new AssertionError(policy);
            }
        }
        slots[(head + size) & mask] = element;
        size++;
        version++;
        return true;
    }

    @Override
    public boolean add(E element) {
        if (!offer(element)) {
            throw new IllegalStateException("buffer is full at " + slots.length + " elements");
        }
        return true;
    }

    public E poll() {
        if (size == 0) {
            return null;
        }
        E first = slot(head);
        slots[head] = null;
        head = (head + 1) & mask;
        size--;
        version++;
        return first;
    }

    public E peek() {
        return size == 0 ? null : slot(head);
    }

    public E peekLast() {
        return size == 0 ? null : slot((head + size - 1) & mask);
    }

    /** Element at a distance from the oldest; negative distances count back from the newest. */
    public E get(int index) {
        int position = index < 0 ? size + index : index;
        if (position < 0 || position >= size) {
            throw new IndexOutOfBoundsException("index " + index + " with size " + size);
        }
        return slot((head + position) & mask);
    }

    public int drainTo(E[] target, int offset) {
        int moved = Math.min(size, target.length - offset);
        for (int i = 0; i < moved; i++) {
            target[offset + i] = poll();
        }
        return moved;
    }

    @Override
    public boolean removeIf(Predicate<? super E> filter) {
        int kept = 0;
        for (int i = 0; i < size; i++) {
            E candidate = slot((head + i) & mask);
            if (!filter.test(candidate)) {
                slots[(head + kept++) & mask] = candidate;
            }
        }
        boolean changed = kept != size;
        while (size > kept) {
            size--;
            slots[(head + size) & mask] = null;
        }
        if (changed) {
            version++;
        }
        return changed;
    }

    @Override
    public void clear() {
        Arrays.fill(slots, null);
        head = 0;
        size = 0;
        version++;
    }

    @Override
    public int size() {
        return size;
    }

    public int capacity() {
        return slots.length;
    }

    public boolean isFull() {
        return size == slots.length && policy != Overflow.GROW;
    }

    public long droppedCount() {
        return dropped;
    }

    @Override
    public Iterator<E> iterator() {
        return new Cursor();
    }

    private void resize(int newLength) {
        Object[] wider = new Object[newLength];
        int tail = Math.min(size, slots.length - head);
        System.arraycopy(slots, head, wider, 0, tail);
        System.arraycopy(slots, 0, wider, tail, size - tail);
        slots = wider;
        mask = newLength - 1;
        head = 0;
    }

    @SuppressWarnings("unchecked")
    private E slot(int i) {
        return (E) slots[i];
    }

    private final class Cursor implements Iterator<E> {
        private int visited = 0;
        private final int seenVersion = version;

        @Override
        public boolean hasNext() {
            return visited < size;
        }

        @Override
        public E next() {
            if (seenVersion != version) {
                throw new ConcurrentModificationException();
            }
            if (visited >= size) {
                throw new NoSuchElementException("ring exhausted after " + visited);
            }
            return slot((head + visited++) & mask);
        }
    }
}

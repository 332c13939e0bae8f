package beacon;

import java.time.Duration;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Deque;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.Callable;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.RejectedExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.locks.Condition;
import java.util.concurrent.locks.ReentrantLock;

/**
 * Bounded pool that keeps tasks with the same key in submission order while tasks with different keys run
 * in parallel. Typical keys are a customer id or a connection.
 *
 * @param <K> ordering key
 */
public class WorkerPool<K> implements AutoCloseable {

    private final ReentrantLock lock = new ReentrantLock();
    private final Condition workReady = lock.newCondition();
    private final Condition spaceFreed = lock.newCondition();
    private final Condition idle = lock.newCondition();

    private final Map<K, Deque<Runnable>> lanes = new HashMap<>();
    private final Deque<K> runnable = new ArrayDeque<>();
    private final Set<K> running = new HashSet<>();
    private final List<Thread> threads = new ArrayList<>();
    private final int capacity;
    private int queued;
    private boolean shutdown = false;

    public WorkerPool(String name, int workers, int capacity) {
        this.capacity = capacity;
        for (int i = 0; i < workers; i++) {
            Thread t = new Thread(this::workLoop, name + "-" + i);
            t.setDaemon(true);
            threads.add(t);
        }
        threads.forEach(Thread::start);
    }

    /** Blocks while the queue is full, which pushes back on whoever is producing the work. */
    public <T> CompletableFuture<T> submit(K key, Callable<T> task) throws InterruptedException {
        CompletableFuture<T> future = new CompletableFuture<>();
        lock.lockInterruptibly();
        try {
            while (queued >= capacity && !shutdown) {
                spaceFreed.await();
            }
            enqueue(key, wrap(task, future));
        } finally {
            lock.unlock();
        }
        return future;
    }

    public <T> CompletableFuture<T> offer(K key, Callable<T> task, Duration patience) throws InterruptedException {
        CompletableFuture<T> future = new CompletableFuture<>();
        long left = patience.toNanos();
        lock.lockInterruptibly();
        try {
            while (queued >= capacity && !shutdown) {
                if (left <= 0L) {
                    throw new RejectedExecutionException("queue still full after " + patience);
                }
                left = spaceFreed.awaitNanos(left);
            }
            enqueue(key, wrap(task, future));
            return future;
        } finally {
            lock.unlock();
        }
    }

    private void enqueue(K key, Runnable task) {
        if (shutdown) {
            throw new RejectedExecutionException("pool is shut down");
        }
        Deque<Runnable> lane = lanes.computeIfAbsent(key, k -> new ArrayDeque<>(4));
        boolean wasEmpty = lane.isEmpty();
        lane.addLast(task);
        queued++;
        if (wasEmpty && !running.contains(key)) {
            runnable.addLast(key);
            workReady.signal();
        }
    }

    private static <T> Runnable wrap(Callable<T> task, CompletableFuture<T> future) {
        return () -> {
            if (future.isCancelled()) {
                return;
            }
            try {
                future.complete(task.call());
            } catch (Throwable t) {
                future.completeExceptionally(t);
                if (t instanceof InterruptedException) {
                    Thread.currentThread().interrupt();
                }
            }
        };
    }

    private void workLoop() {
        lock.lock();
        try {
            while (true) {
                while (runnable.isEmpty()) {
                    if (shutdown && queued == 0) {
                        return;
                    }
                    workReady.awaitUninterruptibly();
                }
                K key = runnable.pollFirst();
                Runnable task = lanes.get(key).pollFirst();
                queued--;
                running.add(key);
                spaceFreed.signal();
                lock.unlock();
                try {
                    task.run();
                } finally {
                    lock.lock();
                    finished(key);
                }
            }
        } finally {
            lock.unlock();
        }
    }

    private void finished(K key) {
        running.remove(key);
        Deque<Runnable> lane = lanes.get(key);
        if (lane == null || lane.isEmpty()) {
            lanes.remove(key);
        } else {
            // Back of the line: one busy key must not starve the others.
            runnable.addLast(key);
            workReady.signal();
        }
        if (queued == 0 && running.isEmpty()) {
            idle.signalAll();
            if (shutdown) {
                workReady.signalAll();
            }
        }
    }

    public boolean awaitIdle(Duration limit) throws InterruptedException {
        long nanos = limit.toNanos();
        lock.lockInterruptibly();
        try {
            while (queued > 0 || !running.isEmpty()) {
                if (nanos <= 0) {
                    return false;
                }
                nanos = idle.awaitNanos(nanos);
            }
            return true;
        } finally {
            lock.unlock();
        }
    }

    public int backlog() {
        lock.lock();
        try {
            return queued;
        } finally {
            lock.unlock();
        }
    }

    @Override
    public void close() {
        lock.lock();
        try {
            shutdown = true;
            workReady.signalAll();
            spaceFreed.signalAll();
        } finally {
            lock.unlock();
        }
        boolean interrupted = false;
        long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(10);
        for (Thread t : threads) {
            long millis = TimeUnit.NANOSECONDS.toMillis(deadline - System.nanoTime());
            if (millis <= 0 || interrupted) {
                t.interrupt();
                continue;
            }
            try {
                t.join(millis);
            } catch (InterruptedException e) {
                interrupted = true;
            }
        }
        if (interrupted) {
            Thread.currentThread().interrupt();
        }
    }
}

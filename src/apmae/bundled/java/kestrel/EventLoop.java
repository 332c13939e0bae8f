package kestrel;

import java.util.PriorityQueue;
import java.util.function.BooleanSupplier;

/** Discrete-event clock. Events at the same instant run in the order they were scheduled. */
public final class EventLoop {

  /** Handle to a pending event. */
  public static final class Ticket implements Comparable<Ticket> {
    private final double time;
    private final long sequence;
    private Runnable action;

    private Ticket(double time, long sequence, Runnable action) {
      this.time = time;
      this.sequence = sequence;
      this.action = action;
    }

    /** Returns false if the event already ran or was cancelled before. */
    public boolean cancel() {
      boolean live = action != null;
      action = null;
      return live;
    }

    public double time() {
      return time;
    }

    @Override
    public int compareTo(Ticket other) {
      int byTime = Double.compare(time, other.time);
      return byTime != 0 ? byTime : Long.compare(sequence, other.sequence);
    }
  }

  private final PriorityQueue<Ticket> pending = new PriorityQueue<>();
  private double now = 0.0;
  private long nextSequence = 0;
  private long executed = 0;
  private boolean stopped = false;

  public double now() {
    return now;
  }

  public long executed() {
    return executed;
  }

  public Ticket after(double delay, Runnable action) {
    if (!(delay >= 0.0)) { // also catches NaN
      throw new IllegalArgumentException("delay must be non-negative: " + delay);
    }
    Ticket ticket = new Ticket(now + delay, nextSequence++, action);
    pending.add(ticket);
    return ticket;
  }

  /** Repeats at a fixed period for as long as the body returns true. */
  public void every(double period, BooleanSupplier body) {
    if (period <= 0) {
      throw new IllegalArgumentException("period must be positive: " + period);
    }
    after(period, () -> {
      if (body.getAsBoolean()) {
        every(period, body);
      }
    });
  }

  public void stop() {
    stopped = true;
  }

  /** Runs until the horizon and leaves the clock there, unless stopped early. */
  public boolean runUntil(double horizon) {
    stopped = false;
    while (!stopped && !pending.isEmpty() && pending.peek().time <= horizon) {
      step();
    }
    if (stopped) {
      return false;
    }
    now = Math.max(now, horizon);
    return true;
  }

  public void drain(long maxEvents) {
    long budget = maxEvents;
    stopped = false;
    while (!stopped && !pending.isEmpty()) {
      if (budget-- <= 0) {
        throw new IllegalStateException("still busy after " + maxEvents + " events at t=" + now);
      }
      step();
    }
  }

  private void step() {
    Ticket ticket = pending.poll();
    Runnable action = ticket.action;
    if (action == null) {
      return;
    }
    ticket.action = null;
    now = ticket.time;
    executed++;
    action.run();
  }
}

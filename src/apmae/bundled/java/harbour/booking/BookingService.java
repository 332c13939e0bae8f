package harbour.booking;

import harbour.berth.BerthScheduler;
import harbour.berth.Vessel;
import harbour.event.EventBus;
import harbour.event.HarbourEvent;
import harbour.support.RetryPolicy;
import harbour.support.TokenBucket;

import java.time.Clock;
import java.time.Duration;
import java.time.Instant;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.UnaryOperator;

public class BookingService {

    private static final Duration NO_SHOW_GRACE = Duration.ofHours(6);
    private static final Duration MIN_STAY = Duration.ofMinutes(45);
    private static final String ALPHABET = "23456789ABCDEFGHJKLMNPQRSTUVWXYZ";

    private final BookingRepository bookings;
    private final BerthScheduler scheduler;
    private final EventBus events;
    private final Clock clock;
    private final RetryPolicy retry;
    private final AtomicInteger sequence = new AtomicInteger(0x2F1);
    private final Map<String, TokenBucket> limits = new ConcurrentHashMap<>();
    private final Map<String, BerthScheduler.Stay> stays = new ConcurrentHashMap<>();

    public BookingService(BookingRepository bookings, BerthScheduler scheduler, EventBus events, Clock clock) {
        this.bookings = bookings;
        this.scheduler = scheduler;
        this.events = events;
        this.clock = clock;
        this.retry = RetryPolicy.exponential(5, Duration.ofMillis(20), 2.0)
                .onlyIf(e -> e instanceof BookingException.StaleVersion);
    }

    public Booking request(String agent, Vessel vessel, Instant arrival, Duration stay) {
        TokenBucket bucket = limits.computeIfAbsent(agent, a -> new TokenBucket(10, 0.5, System::nanoTime));
        if (!bucket.tryAcquire()) {
            throw new BookingException.Throttled(agent, bucket.waitFor(1).toMillis());
        }
        Instant now = clock.instant();
        if (arrival.isBefore(now)) {
            throw new IllegalArgumentException("arrival " + arrival + " is in the past");
        }
        Duration length = stay.compareTo(MIN_STAY) < 0 ? MIN_STAY : stay;
        BerthScheduler.Stay slot = scheduler.reserve(vessel, arrival, length)
                .orElseThrow(() -> new BookingException.NoBerthAvailable(vessel.imo()));

        Booking booking = new Booking(nextReference(), vessel.imo(), slot.berthId(),
                slot.from(), slot.to(), Booking.Status.REQUESTED, 0L);
        boolean stored = false;
        try {
            bookings.insert(booking);
            stays.put(booking.reference(), slot);
            stored = true;
        } finally {
            if (!stored) {
                scheduler.release(slot);
            }
        }
        events.publish(new HarbourEvent.BookingRequested(booking.reference(), vessel.imo(), slot.from(), now));
        return booking;
    }

    public Booking confirm(String reference) {
        return change(reference, b -> b.moveTo(Booking.Status.CONFIRMED));
    }

    public Booking cancel(String reference, String reason) {
        Booking cancelled = change(reference, b -> b.moveTo(Booking.Status.CANCELLED));
        freeQuay(reference);
        boolean late = Duration.between(clock.instant(), cancelled.arrival()).toHours() < 24;
        events.publish(new HarbourEvent.BookingCancelled(reference, reason, late, clock.instant()));
        return cancelled;
    }

    public Booking arrive(String reference) {
        Booking moored = change(reference, b -> b.moveTo(Booking.Status.ALONGSIDE));
        long minutesLate = Duration.between(moored.arrival(), clock.instant()).toMinutes();
        events.publish(new HarbourEvent.VesselMoored(moored.imo(), moored.berthId(),
                (int) Math.max(0, minutesLate), clock.instant()));
        return moored;
    }

    public Booking depart(String reference) {
        Booking gone = change(reference, b -> b.moveTo(Booking.Status.DEPARTED));
        freeQuay(reference);
        return gone;
    }

    /** Frees the quay of ships that never came. Meant to be run from a timer. */
    public int sweepNoShows() {
        Instant cutoff = clock.instant().minus(NO_SHOW_GRACE);
        List<Booking> overdue = bookings.query(
                b -> b.status() == Booking.Status.CONFIRMED && b.arrival().isBefore(cutoff), 100);
        int swept = 0;
        for (Booking booking : overdue) {
            try {
                change(booking.reference(), b -> b.moveTo(Booking.Status.NO_SHOW));
                freeQuay(booking.reference());
                swept++;
            } catch (BookingException.IllegalTransition e) {
                // it moored between the query and now
                continue;
            }
        }
        return swept;
    }

    private Booking change(String reference, UnaryOperator<Booking> edit) {
        return retry.call(() -> {
            Booking updated = edit.apply(bookings.require(reference));
            bookings.update(updated);
            return updated;
        });
    }

    private void freeQuay(String reference) {
        BerthScheduler.Stay stay = stays.remove(reference);
        if (stay != null) {
            scheduler.release(stay);
        }
    }

    // Multiplying by an odd constant permutes the 25-bit space, so references
    // look shuffled but never collide before the counter wraps.
    private String nextReference() {
        int scrambled = (sequence.getAndIncrement() * 0x9E3779B1) & 0x1FFFFFF;
        char[] out = new char[5];
        for (int i = out.length - 1; i >= 0; i--) {
            out[i] = ALPHABET.charAt(scrambled & 31);
            scrambled >>>= 5;
        }
        return "HB-" + new String(out);
    }
}

package kestrel;

import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.Locale;
import java.util.Queue;
import java.util.Random;

/** Shoppers arriving at a row of tills, used to compare queueing policies. */
public final class CheckoutSimulation {

    public enum Policy {
        /** One queue feeding every till. */
        SHARED,
        /** Each shopper commits to the till with the fewest people. */
        SHORTEST,
        RANDOM
    }

    public record Settings(int tills, double meanGap, double meanService, double patience, Policy policy, long seed) {
        public Settings {
            if (tills < 1) {
                throw new IllegalArgumentException("need at least one till");
            }
            if (meanGap <= 0 || meanService <= 0 || patience <= 0) {
                throw new IllegalArgumentException("times must be positive");
            }
        }

        public double load() {
            return meanService / (meanGap * tills);
        }
    }

    public record Summary(int served, int abandoned, double meanWait, double longestWait, double utilisation) {
        @Override
        public String toString() {
            return String.format(Locale.ROOT, "served %d, gave up %d, wait %.1fs (max %.1fs), busy %.0f%%",
                    served, abandoned, meanWait, longestWait, utilisation * 100);
        }
    }

    private static final class Shopper {
        final double arrived;
        EventLoop.Ticket impatience;
        boolean gone = false;

        Shopper(double arrived) {
            this.arrived = arrived;
        }
    }

    private static final class Till {
        final Queue<Shopper> line;
        boolean busy = false;
        double busyTime = 0.0;

        Till(Queue<Shopper> line) {
            this.line = line;
        }

        int load() {
            int waiting = 0;
            for (Shopper s : line) {
                if (!s.gone) waiting++;
            }
            return waiting + (busy ? 1 : 0);
        }
    }

    private final Settings settings;
    private final EventLoop loop = new EventLoop();
    private final Random random;
    private final List<Till> tills = new ArrayList<>();
    private double closing;
    private int served;
    private int abandoned;
    private double totalWait;
    private double longestWait;

    public CheckoutSimulation(Settings settings) {
        this.settings = settings;
        this.random = new Random(settings.seed());
        Queue<Shopper> shared = new ArrayDeque<>();
        for (int i = 0; i < settings.tills(); i++) {
            tills.add(new Till(settings.policy() == Policy.SHARED ? shared : new ArrayDeque<>()));
        }
    }

    public Summary run(double openSeconds) {
        closing = openSeconds;
        scheduleArrival();
        loop.drain(10_000_000L);
        double tillTime = tills.size() * Math.max(loop.now(), openSeconds);
        double busy = tills.stream().mapToDouble(t -> t.busyTime).sum();
        return new Summary(served, abandoned, served == 0 ? 0.0 : totalWait / served, longestWait, busy / tillTime);
    }

    private double exponential(double mean) {
        return -mean * Math.log(1.0 - random.nextDouble());
    }

    private void scheduleArrival() {
        double gap = exponential(settings.meanGap());
        if (loop.now() + gap <= closing) {
            loop.after(gap, this::arrive);
        }
    }

    private void arrive() {
        scheduleArrival();
        Shopper shopper = new Shopper(loop.now());
        Till till = pickTill();
        till.line.add(shopper);
        shopper.impatience = loop.after(settings.patience(), () -> {
            shopper.gone = true;
            abandoned++;
        });
        if (!till.busy) {
            serveNext(till);
        }
    }

    private Till pickTill() {
        return switch (settings.policy()) {
            case SHARED -> tills.stream().filter(t -> !t.busy).findFirst().orElse(tills.get(0));
            case SHORTEST -> tills.stream().min(Comparator.comparingInt(Till::load)).orElseThrow();
            case RANDOM -> tills.get(random.nextInt(tills.size()));
        };
    }

    private void serveNext(Till till) {
        Shopper shopper;
        do {
            shopper = till.line.poll();
        } while (shopper != null && shopper.gone);
        if (shopper == null) {
            till.busy = false;
            return;
        }
        shopper.impatience.cancel();
        double wait = loop.now() - shopper.arrived;
        totalWait += wait;
        longestWait = Math.max(longestWait, wait);
        served++;
        till.busy = true;
        double service = exponential(settings.meanService());
        till.busyTime += service;
        loop.after(service, () -> serveNext(till));
    }

    public static void main(String[] args) {
        long seed = args.length > 0 ? Long.parseLong(args[0]) : 0xC0FFEEL;
        for (Policy policy : Policy.values()) {
            Settings settings = new Settings(4, 22.5, 80.0, 600.0, policy, seed);
            Summary summary = new CheckoutSimulation(settings).run(8 * 3_600);
            System.out.printf("%-9s load %.2f  %s%n", policy.name().toLowerCase(Locale.ROOT), settings.load(), summary);
        }
    }
}

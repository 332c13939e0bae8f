package kestrel;

import java.util.ArrayDeque;
import java.util.Arrays;
import java.util.Collections;
import java.util.Deque;
import java.util.HashMap;
import java.util.HashSet;
import java.util.LinkedList;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.PriorityQueue;
import java.util.Set;
import java.util.function.Predicate;
import kestrel.GridWorld.Cell;
import kestrel.GridWorld.Terrain;

/** Cheapest routes across a {@link GridWorld}. */
public class RoutePlanner {

    public record Route(List<Cell> cells, int cost) {
        public Cell destination() {
            return cells.get(cells.size() - 1);
        }

        public int turns() {
            int turns = 0;
            for (int i = 2; i < cells.size(); i++) {
                boolean wasVertical = cells.get(i - 2).x() == cells.get(i - 1).x();
                boolean isVertical = cells.get(i - 1).x() == cells.get(i).x();
                if (wasVertical != isVertical) {
                    turns++;
                }
            }
            return turns;
        }
    }

    private record Open(Cell cell, int travelled, int estimate) implements Comparable<Open> {
        @Override
        public int compareTo(Open other) {
            int byEstimate = Integer.compare(estimate, other.estimate);
            // on ties, prefer the node that has come furthest
            return byEstimate != 0 ? byEstimate : Integer.compare(other.travelled, travelled);
        }
    }

    private static final int CHEAPEST_STEP = Arrays.stream(Terrain.values())
            .filter(Terrain::isPassable)
            .mapToInt(Terrain::moveCost)
            .min()
            .orElse(1);

    private final GridWorld world;
    private Predicate<Cell> occupied = cell -> false;

    public RoutePlanner(GridWorld world) {
        this.world = world;
    }

    /** Cells for which the predicate holds may be a destination but never passed through. */
    public void avoid(Predicate<Cell> occupied) {
        this.occupied = occupied;
    }

    public Optional<Route> find(Cell start, Cell goal) {
        if (!world.at(goal).isPassable()) {
            return Optional.empty();
        }
        Map<Cell, Integer> best = new HashMap<>();
        Map<Cell, Cell> cameFrom = new HashMap<>();
        PriorityQueue<Open> frontier = new PriorityQueue<>();
        best.put(start, 0);
        frontier.add(new Open(start, 0, start.distanceTo(goal) * CHEAPEST_STEP));

        while (!frontier.isEmpty()) {
            Open node = frontier.poll();
            if (node.cell().equals(goal)) {
                return Optional.of(new Route(trace(cameFrom, goal), node.travelled()));
            }
            if (node.travelled() > best.get(node.cell())) {
                continue; // superseded by a cheaper entry
            }
            for (Cell next : world.exits(node.cell())) {
                if (occupied.test(next) && !next.equals(goal)) {
                    continue;
                }
                int travelled = node.travelled() + world.at(next).moveCost();
                if (travelled < best.getOrDefault(next, Integer.MAX_VALUE)) {
                    best.put(next, travelled);
                    cameFrom.put(next, node.cell());
                    int estimate = travelled + next.distanceTo(goal) * CHEAPEST_STEP;
                    frontier.add(new Open(next, travelled, estimate));
                }
            }
        }
        return Optional.empty();
    }

    private static List<Cell> trace(Map<Cell, Cell> cameFrom, Cell goal) {
        LinkedList<Cell> path = new LinkedList<>();
        for (Cell at = goal; at != null; at = cameFrom.get(at)) {
            path.addFirst(at);
        }
        return Collections.unmodifiableList(path);
    }

    /** Every cell reachable for at most the given budget, with the cost of getting there. */
    public Map<Cell, Integer> reachable(Cell start, int budget) {
        Map<Cell, Integer> settled = new HashMap<>();
        PriorityQueue<Open> frontier = new PriorityQueue<>();
        frontier.add(new Open(start, 0, 0));
        while (!frontier.isEmpty()) {
            Open node = frontier.poll();
            if (settled.putIfAbsent(node.cell(), node.travelled()) != null) {
                continue;
            }
            for (Cell next : world.exits(node.cell())) {
                int cost = node.travelled() + world.at(next).moveCost();
                if (cost <= budget && !settled.containsKey(next) && !occupied.test(next)) {
                    frontier.add(new Open(next, cost, cost));
                }
            }
        }
        return settled;
    }

    /** Number of separate passable regions; a playable map should have exactly one. */
    public int regionCount() {
        Set<Cell> seen = new HashSet<>();
        int[] regions = {0};
        world.forEach((cell, terrain) -> {
            if (!terrain.isPassable() || !seen.add(cell)) {
                return;
            }
            regions[0]++;
            Deque<Cell> stack = new ArrayDeque<>();
            stack.push(cell);
            while (!stack.isEmpty()) {
                for (Cell next : world.exits(stack.pop())) {
                    if (seen.add(next)) {
                        stack.push(next);
                    }
                }
            }
        });
        return regions[0];
    }
}

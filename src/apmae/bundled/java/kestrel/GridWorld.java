package kestrel;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.function.BiConsumer;

/** Rectangular tile map. Everything outside the edges behaves as rock. */
public final class GridWorld {

    public enum Terrain {
        GRASS('.', 10),
        ROAD('=', 6),
        FOREST('%', 18),
        MARSH('~', 35),
        ROCK('#', -1);

        private final char glyph;
        private final int moveCost;

        Terrain(char glyph, int moveCost) {
            this.glyph = glyph;
            this.moveCost = moveCost;
        }

        public boolean isPassable() {
            return moveCost > 0;
        }

        public boolean blocksSight() {
            return this == ROCK || this == FOREST;
        }

        public int moveCost() {
            return moveCost;
        }

        static Terrain fromGlyph(char glyph) {
            for (Terrain t : values()) {
                if (t.glyph == glyph) {
                    return t;
                }
            }
            throw new IllegalArgumentException("no terrain is drawn as '" + glyph + "'");
        }
    }

    public enum Heading {
        NORTH(0, -1), EAST(1, 0), SOUTH(0, 1), WEST(-1, 0);

        final int dx;
        final int dy;

        Heading(int dx, int dy) {
            this.dx = dx;
            this.dy = dy;
        }

        public Heading clockwise() {
            return values()[(ordinal() + 1) % 4];
        }

        public Heading opposite() {
            return values()[ordinal() ^ 2];
        }
    }

    public record Cell(int x, int y) {
        public Cell step(Heading heading) {
            return new Cell(x + heading.dx, y + heading.dy);
        }

        public int distanceTo(Cell other) {
            return Math.abs(x - other.x) + Math.abs(y - other.y);
        }
    }

    private final int width;
    private final int height;
    private final Terrain[] tiles;

    public GridWorld(int width, int height, Terrain fill) {
        if (width <= 0 || height <= 0) {
            throw new IllegalArgumentException("empty world: " + width + "x" + height);
        }
        this.width = width;
        this.height = height;
        this.tiles = new Terrain[width * height];
        Arrays.fill(tiles, fill);
    }

    public static GridWorld parse(String... rows) {
        GridWorld world = new GridWorld(rows[0].length(), rows.length, Terrain.GRASS);
        for (int y = 0; y < rows.length; y++) {
            if (rows[y].length() != world.width) {
                throw new IllegalArgumentException("row " + y + " is " + rows[y].length() + " wide, not " + world.width);
            }
            for (int x = 0; x < world.width; x++) {
                world.tiles[y * world.width + x] = Terrain.fromGlyph(rows[y].charAt(x));
            }
        }
        return world;
    }

    public boolean contains(Cell cell) {
        return cell.x() >= 0 && cell.x() < width && cell.y() >= 0 && cell.y() < height;
    }

    public Terrain at(Cell cell) {
        return contains(cell) ? tiles[cell.y() * width + cell.x()] : Terrain.ROCK;
    }

    public void set(Cell cell, Terrain terrain) {
        if (!contains(cell)) {
            throw new IndexOutOfBoundsException(cell + " is off the map");
        }
        tiles[cell.y() * width + cell.x()] = terrain;
    }

    public List<Cell> exits(Cell from) {
        List<Cell> open = new ArrayList<>(4);
        for (Heading heading : Heading.values()) {
            Cell next = from.step(heading);
            if (at(next).isPassable()) {
                open.add(next);
            }
        }
        return open;
    }

    /**
     * Samples the straight line between two cell centres, once per column or row
     * along its longer axis. The end points themselves never block.
     */
    public boolean canSee(Cell from, Cell to) {
        int spanX = to.x() - from.x();
        int spanY = to.y() - from.y();
        int samples = Math.max(Math.abs(spanX), Math.abs(spanY));
        boolean clear = true;
        for (int k = 1; k < samples && clear; k++) {
            double along = k / (double) samples;
            int x = from.x() + (int) Math.round(along * spanX);
            int y = from.y() + (int) Math.round(along * spanY);
            clear = !at(new Cell(x, y)).blocksSight();
        }
        return clear;
    }

    public void forEach(BiConsumer<Cell, Terrain> visitor) {
        for (int i = 0; i < tiles.length; i++) {
            visitor.accept(new Cell(i % width, i / width), tiles[i]);
        }
    }

    public int width() {
        return width;
    }

    public int height() {
        return height;
    }

    @Override
    public String toString() {
        StringBuilder map = new StringBuilder((width + 1) * height);
        for (int y = 0; y < height; y++) {
            for (int x = 0; x < width; x++) {
                map.append(tiles[y * width + x].glyph);
            }
            map.append('\n');
        }
        return map.toString();
    }
}

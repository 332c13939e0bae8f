package meridian;

import java.util.List;
import java.util.Locale;

/** Distances and bearings on a sphere of the Earth's mean radius. Angles are in degrees. */
public final class Geodesy {

    public static final double MEAN_RADIUS_M = 6_371_008.8;

    private static final String GEOHASH_DIGITS = "0123456789bcdefghjkmnpqrstuvwxyz";

    public record Point(double lat, double lon) {
        public Point {
            if (!(lat >= -90 && lat <= 90)) {
                throw new IllegalArgumentException("latitude out of range: " + lat);
            }
            lon = normalizeLongitude(lon);
        }

        double phi() {
            return Math.toRadians(lat);
        }

        double lambda() {
            return Math.toRadians(lon);
        }

        @Override
        public String toString() {
            return String.format(Locale.ROOT, "%.5f%c %.5f%c", Math.abs(lat), lat < 0 ? 'S' : 'N',
                    Math.abs(lon), lon < 0 ? 'W' : 'E');
        }
    }

    public record Box(double south, double west, double north, double east) {
        public boolean contains(Point p) {
            if (p.lat() < south || p.lat() > north) {
                return false;
            }
            // a box may straddle the antimeridian
            return west <= east ? p.lon() >= west && p.lon() <= east
                    : p.lon() >= west || p.lon() <= east;
        }
    }

    public enum Compass {
        N, NE, E, SE, S, SW, W, NW;

        public static Compass nearest(double bearing) {
            int octant = (int) Math.round(normalizeBearing(bearing) / 45.0);
            return values()[octant & 7];
        }
    }

    private Geodesy() {
    }

    public static double distance(Point a, Point b) {
        double sinLat = Math.sin((b.phi() - a.phi()) / 2);
        double sinLon = Math.sin((b.lambda() - a.lambda()) / 2);
        double h = sinLat * sinLat + Math.cos(a.phi()) * Math.cos(b.phi()) * sinLon * sinLon;
        return 2 * MEAN_RADIUS_M * Math.asin(Math.min(1.0, Math.sqrt(h)));
    }

    public static double initialBearing(Point from, Point to) {
        double dLon = to.lambda() - from.lambda();
        double east = Math.sin(dLon) * Math.cos(to.phi());
        double north = Math.cos(from.phi()) * Math.sin(to.phi())
                - Math.sin(from.phi()) * Math.cos(to.phi()) * Math.cos(dLon);
        return normalizeBearing(Math.toDegrees(Math.atan2(east, north)));
    }

    public static Point destination(Point start, double bearing, double metres) {
        double arc = metres / MEAN_RADIUS_M;
        double theta = Math.toRadians(bearing);
        double sinPhi = Math.sin(start.phi()) * Math.cos(arc)
                + Math.cos(start.phi()) * Math.sin(arc) * Math.cos(theta);
        double y = Math.sin(theta) * Math.sin(arc) * Math.cos(start.phi());
        double x = Math.cos(arc) - Math.sin(start.phi()) * sinPhi;
        double phi = Math.asin(Math.max(-1.0, Math.min(1.0, sinPhi)));
        return new Point(Math.toDegrees(phi), start.lon() + Math.toDegrees(Math.atan2(y, x)));
    }

    /** Signed distance of a point from a great circle, negative to the left of the track. */
    public static double crossTrack(Point p, Point trackStart, Point trackEnd) {
        double arc = distance(trackStart, p) / MEAN_RADIUS_M;
        double off = Math.toRadians(initialBearing(trackStart, p) - initialBearing(trackStart, trackEnd));
        return Math.asin(Math.sin(arc) * Math.sin(off)) * MEAN_RADIUS_M;
    }

    public static double pathLength(List<Point> path, boolean closed) {
        double total = 0;
        for (int i = 1; i < path.size(); i++) {
            total += distance(path.get(i - 1), path.get(i));
        }
        if (closed && path.size() > 2) {
            total += distance(path.get(path.size() - 1), path.get(0));
        }
        return total;
    }

    /** Even-odd test in the plane of latitude and longitude; fine for regions of city size. */
    public static boolean inside(Point p, List<Point> ring) {
        boolean in = false;
        for (int i = 0, j = ring.size() - 1; i < ring.size(); j = i++) {
            Point a = ring.get(i);
            Point b = ring.get(j);
            if ((a.lat() > p.lat()) != (b.lat() > p.lat())) {
                double t = (p.lat() - a.lat()) / (b.lat() - a.lat());
                if (p.lon() < a.lon() + t * (b.lon() - a.lon())) {
                    in = !in;
                }
            }
        }
        return in;
    }

    public static String geohash(Point p, int length) {
        if (length < 1 || length > 12) {
            throw new IllegalArgumentException("geohash length must be 1 to 12, not " + length);
        }
        double[] lat = {-90, 90};
        double[] lon = {-180, 180};
        StringBuilder hash = new StringBuilder(length);
        boolean even = true;
        int bits = 0;
        int digit = 0;
        while (hash.length() < length) {
            double[] range = even ? lon : lat;
            double mid = (range[0] + range[1]) / 2;
            digit <<= 1;
            if ((even ? p.lon() : p.lat()) >= mid) {
                digit |= 1;
                range[0] = mid;
            } else {
                range[1] = mid;
            }
            even = !even;
            if (++bits == 5) {
                hash.append(GEOHASH_DIGITS.charAt(digit));
                bits = 0;
                digit = 0;
            }
        }
        return hash.toString();
    }

    static double normalizeLongitude(double lon) {
        if (lon >= -180 && lon < 180) {
            return lon;
        }
        return lon - 360 * Math.floor((lon + 180) / 360);
    }

    static double normalizeBearing(double degrees) {
        double b = degrees % 360;
        return b < 0 ? b + 360 : b;
    }
}

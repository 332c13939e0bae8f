package beacon;

import java.lang.reflect.Constructor;
import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.ParameterizedType;
import java.lang.reflect.RecordComponent;
import java.lang.reflect.Type;
import java.net.URI;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Optional;
import java.util.TreeSet;
import java.util.function.Function;

/**
 * Fills a record from flat {@code section.key=value} settings. Record component names in camel case become
 * kebab case keys, nested records become sections, and every problem is reported in a single exception.
 */
public final class ConfigBinder {

    public static class ConfigException extends RuntimeException {
        private static final long serialVersionUID = 1L;

        ConfigException(List<String> problems) {
            super(problems.size() + " configuration problem(s):\n  " + String.join("\n  ", problems));
        }
    }

    private static final Map<Class<?>, Function<String, ?>> CONVERTERS = new HashMap<>();

    static {
        CONVERTERS.put(String.class, Function.identity());
        CONVERTERS.put(int.class, s -> Integer.decode(s.replace("_", "")));
        CONVERTERS.put(long.class, ConfigBinder::parseSize);
        CONVERTERS.put(double.class, Double::valueOf);
        CONVERTERS.put(boolean.class, ConfigBinder::parseSwitch);
        CONVERTERS.put(Duration.class, ConfigBinder::parseDuration);
        CONVERTERS.put(Path.class, Path::of);
        CONVERTERS.put(URI.class, URI::create);
        // Optional and List elements are always boxed.
        CONVERTERS.put(Integer.class, CONVERTERS.get(int.class));
        CONVERTERS.put(Long.class, CONVERTERS.get(long.class));
        CONVERTERS.put(Double.class, CONVERTERS.get(double.class));
        CONVERTERS.put(Boolean.class, CONVERTERS.get(boolean.class));
    }

    private final Map<String, String> settings;
    private final TreeSet<String> unused;
    private final List<String> problems = new ArrayList<>();

    private ConfigBinder(Map<String, String> settings) {
        this.settings = settings;
        this.unused = new TreeSet<>(settings.keySet());
    }

    public static <R extends Record> R bind(Map<String, String> settings, String prefix, Class<R> type) {
        ConfigBinder binder = new ConfigBinder(settings);
        R bound = type.cast(binder.construct(type, prefix));
        binder.unused.stream()
                .filter(k -> k.startsWith(prefix + "."))
                .forEach(k -> binder.problems.add(k + ": not a recognised setting"));
        if (!binder.problems.isEmpty()) {
            throw new ConfigException(binder.problems);
        }
        return bound;
    }

    private Object construct(Class<?> type, String prefix) {
        RecordComponent[] components = type.getRecordComponents();
        Object[] arguments = new Object[components.length];
        Class<?>[] signature = new Class<?>[components.length];
        int before = problems.size();
        for (int i = 0; i < components.length; i++) {
            signature[i] = components[i].getType();
            arguments[i] = resolve(components[i].getGenericType(), prefix + "." + kebab(components[i].getName()));
        }
        if (problems.size() > before) {
            return null;
        }
        try {
            Constructor<?> constructor = type.getDeclaredConstructor(signature);
            constructor.setAccessible(true);
            return constructor.newInstance(arguments);
        } catch (InvocationTargetException e) {
            problems.add(prefix + ": " + e.getCause().getMessage());
            return null;
        } catch (ReflectiveOperationException e) {
            throw new IllegalArgumentException("cannot instantiate " + type.getName(), e);
        }
    }

    private Object resolve(Type type, String key) {
        if (type instanceof ParameterizedType generic) {
            Class<?> element = (Class<?>) generic.getActualTypeArguments()[0];
            if (generic.getRawType() == Optional.class) {
                return lookup(key).map(text -> convert(element, key, text));
            }
            if (generic.getRawType() == List.class) {
                return Arrays.stream(lookup(key).orElse("").split(","))
                        .map(String::strip)
                        .filter(s -> !s.isEmpty())
                        .map(s -> convert(element, key, s))
                        .toList();
            }
            throw new IllegalArgumentException(key + ": unsupported type " + type);
        }
        Class<?> plain = (Class<?>) type;
        if (plain.isRecord()) {
            return construct(plain, key);
        }
        Optional<String> text = lookup(key);
        if (text.isEmpty()) {
            problems.add(key + ": missing");
            return null;
        }
        return convert(plain, key, text.get());
    }

    private Optional<String> lookup(String key) {
        unused.remove(key);
        return Optional.ofNullable(settings.get(key)).map(String::strip).filter(s -> !s.isEmpty());
    }

    private Object convert(Class<?> target, String key, String text) {
        try {
            if (target.isEnum()) {
                String wanted = text.replace('-', '_');
                for (Object constant : target.getEnumConstants()) {
                    if (((Enum<?>) constant).name().equalsIgnoreCase(wanted)) {
                        return constant;
                    }
                }
                throw new IllegalArgumentException("expected one of " + Arrays.toString(target.getEnumConstants()));
            }
            Function<String, ?> converter = CONVERTERS.get(target);
            if (converter == null) {
                throw new IllegalArgumentException("no converter for " + target.getSimpleName());
            }
            return converter.apply(text);
        } catch (RuntimeException e) {
            problems.add(key + ": '" + text + "' is not usable, " + e.getMessage());
            // Never reaches the caller: a recorded problem always ends in a ConfigException.
            return "";
        }
    }

    static long parseSize(String text) {
        int split = text.length();
        while (split > 0 && Character.isLetter(text.charAt(split - 1))) {
            split--;
        }
        long number = Long.parseLong(text.substring(0, split).strip().replace("_", ""));
        int shift = switch (text.substring(split).toLowerCase(Locale.ROOT)) {
            case "", "b" -> 0;
            case "k", "kb", "kib" -> 10;
            case "m", "mb", "mib" -> 20;
            case "g", "gb", "gib" -> 30;
            default -> throw new IllegalArgumentException("unknown size unit");
        };
        return Math.multiplyExact(number, 1L << shift);
    }

    static Duration parseDuration(String text) {
        if (text.startsWith("P")) {
            return Duration.parse(text);
        }
        String digits = text.replaceAll("[a-z]+$", "");
        long amount = Long.parseLong(digits);
        return switch (text.substring(digits.length())) {
            case "ms" -> Duration.ofMillis(amount);
            case "s" -> Duration.ofSeconds(amount);
            case "m" -> Duration.ofMinutes(amount);
            case "h" -> Duration.ofHours(amount);
            case "d" -> Duration.ofDays(amount);
            default -> throw new IllegalArgumentException("durations need a unit: ms, s, m, h or d");
        };
    }

    private static boolean parseSwitch(String text) {
        switch (text.toLowerCase(Locale.ROOT)) {
            case "true":
            case "yes":
            case "on":
                return true;
            case "false":
            case "no":
            case "off":
                return false;
            default:
                throw new IllegalArgumentException("expected true/false, yes/no or on/off");
        }
    }

    private static String kebab(String camel) {
        StringBuilder out = new StringBuilder();
        for (char c : camel.toCharArray()) {
            if (Character.isUpperCase(c)) {
                out.append('-').append(Character.toLowerCase(c));
            } else {
                out.append(c);
            }
        }
        return out.toString();
    }
}

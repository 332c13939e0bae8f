package quill;

import java.util.ArrayList;
import java.util.Collections;
import java.util.Comparator;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.function.UnaryOperator;
import java.util.stream.Collectors;

/** In-memory inverted index with term frequencies and a ranked search. */
public final class WordIndex<K extends Comparable<K>> {

    public record Hit<K>(K document, double score) {}

    public record Count(String term, int occurrences) {}

    private static final Set<String> STOP_WORDS = Set.of(
            "a", "an", "and", "are", "as", "at", "be", "by", "for", "from", "in", "is", "it",
            "of", "on", "or", "that", "the", "this", "to", "was", "were", "will", "with");

    // Saturation and length-normalisation constants for the ranking below.
    private static final double K1 = 1.4;
    private static final double B = 0.7;

    private final UnaryOperator<String> stem;
    private final Map<String, TreeMap<K, Integer>> postings = new HashMap<>();
    private final Map<K, Integer> lengths = new HashMap<>();
    private long totalTerms = 0L;

    public WordIndex(UnaryOperator<String> stem) {
        this.stem = stem;
    }

    public void add(K document, String text) {
        if (lengths.containsKey(document)) {
            remove(document);
        }
        List<String> terms = terms(text);
        for (String term : terms) {
            postings.computeIfAbsent(term, t -> new TreeMap<>()).merge(document, 1, Integer::sum);
        }
        lengths.put(document, terms.size());
        totalTerms += terms.size();
    }

    public boolean remove(K document) {
        Integer length = lengths.remove(document);
        if (length == null) {
            return false;
        }
        totalTerms -= length;
        postings.values().forEach(entry -> entry.remove(document));
        postings.values().removeIf(Map::isEmpty);
        return true;
    }

    private List<String> terms(String text) {
        return new TokenStream(text).words()
                .map(String::toLowerCase)
                .filter(word -> !STOP_WORDS.contains(word))
                .map(stem)
                .collect(Collectors.toList());
    }

    public List<Hit<K>> search(String query, int limit) {
        Map<K, Double> scores = new HashMap<>();
        double meanLength = lengths.isEmpty() ? 1.0 : Math.max(1.0, totalTerms / (double) lengths.size());
        for (String term : new HashSet<>(terms(query))) {
            Map<K, Integer> entry = postings.get(term);
            if (entry == null) {
                continue;
            }
            double rarity = Math.log(1.0 + (lengths.size() - entry.size() + 0.5) / (entry.size() + 0.5));
            entry.forEach((document, tf) -> {
                double norm = 1.0 - B + B * lengths.get(document) / meanLength;
                double weight = rarity * tf * (K1 + 1) / (tf + K1 * norm);
                scores.merge(document, weight, Double::sum);
            });
        }
        List<Hit<K>> hits = new ArrayList<>(scores.size());
        scores.forEach((document, score) -> hits.add(new Hit<>(document, score)));
        hits.sort(Comparator.comparingDouble((Hit<K> h) -> -h.score()).thenComparing(Hit::document));
        return hits.size() > limit ? hits.subList(0, limit) : hits;
    }

    /** Documents that contain every term of the query. */
    public Set<K> containingAll(String query) {
        Set<K> result = null;
        for (String term : terms(query)) {
            Set<K> documents = postings.getOrDefault(term, new TreeMap<>()).keySet();
            if (result == null) {
                result = new HashSet<>(documents);
            } else {
                result.retainAll(documents);
            }
            if (result.isEmpty()) {
                return Collections.emptySet();
            }
        }
        return result == null ? Collections.emptySet() : result;
    }

    public List<Count> mostFrequent(int n) {
        return postings.entrySet().stream()
                .map(e -> new Count(e.getKey(), e.getValue().values().stream().mapToInt(Integer::intValue).sum()))
                .sorted(Comparator.comparingInt(Count::occurrences).reversed().thenComparing(Count::term))
                .limit(n)
                .toList();
    }

    public int documentCount() {
        return lengths.size();
    }

    public int vocabularySize() {
        return postings.size();
    }
}

package granary;

import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Collections;
import java.util.Deque;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.function.BiPredicate;

/** String-keyed trie with compressed edges. Children are kept sorted by their first character. */
public class RadixTrie<V> {

    public record Match<V>(String key, V value) { }

    private static class Node<V> {
        String label;
        V value;
        boolean terminal;
        final TreeMap<Character, Node<V>> children = new TreeMap<>();

        Node(String label) {
            this.label = label;
        }

        void adopt(Node<V> child) {
            children.put(child.label.charAt(0), child);
        }
    }

    private final Node<V> root = new Node<>("");
    private int entries;

    public V put(String key, V value) {
        Node<V> node = root;
        int offset = 0;
        while (offset < key.length()) {
            Node<V> child = node.children.get(key.charAt(offset));
            if (child == null) {
                child = new Node<>(key.substring(offset));
                node.adopt(child);
                node = child;
                break;
            }
            int shared = commonLength(key, offset, child.label);
            if (shared < child.label.length()) {
                child = split(node, child, shared);
            }
            offset += shared;
            node = child;
        }
        V previous = node.value;
        if (!node.terminal) {
            node.terminal = true;
            entries++;
        }
        node.value = value;
        return previous;
    }

    public V get(String key) {
        Node<V> node = descend(key);
        return node != null && node.terminal ? node.value : null;
    }

    public boolean contains(String key) {
        Node<V> node = descend(key);
        return node != null && node.terminal;
    }

    public boolean remove(String key) {
        Deque<Node<V>> path = new ArrayDeque<>();
        Node<V> node = root;
        int offset = 0;
        while (offset < key.length()) {
            path.push(node);
            node = node.children.get(key.charAt(offset));
            if (node == null || !key.startsWith(node.label, offset)) {
                return false;
            }
            offset += node.label.length();
        }
        if (!node.terminal) {
            return false;
        }
        node.terminal = false;
        node.value = null;
        entries--;
        if (path.isEmpty()) {
            return true;
        }
        Node<V> parent = path.pop();
        if (node.children.isEmpty()) {
            parent.children.remove(node.label.charAt(0));
            if (!path.isEmpty()) {
                collapse(parent, path.pop());
            }
        } else {
            collapse(node, parent);
        }
        return true;
    }

    /** The longest stored key that is a prefix of the input, or null if none is. */
    public Match<V> longestPrefixOf(String input) {
        Node<V> node = root;
        int offset = 0;
        Match<V> best = root.terminal ? new Match<>("", root.value) : null;
        while (offset < input.length()) {
            node = node.children.get(input.charAt(offset));
            if (node == null || !input.startsWith(node.label, offset)) {
                break;
            }
            offset += node.label.length();
            if (node.terminal) {
                best = new Match<>(input.substring(0, offset), node.value);
            }
        }
        return best;
    }

    public List<String> keysWithPrefix(String prefix, int limit) {
        if (limit <= 0) {
            return Collections.emptyList();
        }
        Node<V> node = root;
        int offset = 0;
        StringBuilder path = new StringBuilder();
        while (offset < prefix.length()) {
            node = node.children.get(prefix.charAt(offset));
            if (node == null) {
                return List.of();
            }
            int shared = commonLength(prefix, offset, node.label);
            if (shared < node.label.length() && offset + shared < prefix.length()) {
                return List.of();
            }
            path.append(node.label);
            offset += shared;
        }
        List<String> found = new ArrayList<>();
        walk(node, path, (key, value) -> {
            found.add(key);
            return found.size() < limit;
        });
        return found;
    }

    /** Visits entries in key order until the visitor answers false. */
    public void visit(BiPredicate<String, V> visitor) {
        walk(root, new StringBuilder(), visitor);
    }

    public int size() {
        return entries;
    }

    private boolean walk(Node<V> node, StringBuilder path, BiPredicate<String, V> visitor) {
        if (node.terminal && !visitor.test(path.toString(), node.value)) {
            return false;
        }
        int mark = path.length();
        for (Map.Entry<Character, Node<V>> edge : node.children.entrySet()) {
            path.append(edge.getValue().label);
            boolean more = walk(edge.getValue(), path, visitor);
            path.setLength(mark);
            if (!more) {
                return false;
            }
        }
        return true;
    }

    private Node<V> descend(String key) {
        Node<V> node = root;
        for (int offset = 0; offset < key.length(); offset += node.label.length()) {
            node = node.children.get(key.charAt(offset));
            if (node == null || !key.startsWith(node.label, offset)) {
                return null;
            }
        }
        return node;
    }

    private Node<V> split(Node<V> parent, Node<V> child, int at) {
        Node<V> upper = new Node<>(child.label.substring(0, at));
        child.label = child.label.substring(at);
        upper.adopt(child);
        parent.adopt(upper);
        return upper;
    }

    // A non-terminal node with a single child is only a longer edge.
    private void collapse(Node<V> node, Node<V> parent) {
        if (node.terminal || node.children.size() != 1) {
            return;
        }
        Node<V> only = node.children.firstEntry().getValue();
        only.label = node.label + only.label;
        parent.adopt(only);
    }

    private static int commonLength(String key, int offset, String label) {
        int max = Math.min(key.length() - offset, label.length());
        int n = 0;
        while (n < max && key.charAt(offset + n) == label.charAt(n)) {
            n++;
        }
        return n;
    }
}

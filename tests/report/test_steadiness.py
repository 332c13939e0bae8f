import pytest

from apmae.report.steadiness import exceptions_of, names_words, print_summary, steadiest


def head(layer, number, name, steadiness, *, unknown=(), tasks=None):
    names = [(name, steadiness)] * (name is not None)
    names += [("unknown", share) for reason, share in unknown if reason != "structure"]
    return {
        "layer": layer,
        "head": number,
        "tags": 10,
        "name": name,
        "steadiness": steadiness,
        "known": 1 - sum(share for _, share in unknown),
        "names": [{"name": own, "share": share} for own, share in names],
        "unknown": [{"reason": reason, "share": share} for reason, share in unknown],
        "measured": [{"kind": "columns on newlines", "share": 0.6}],
        "tasks": {
            task: {"name": own, "tags": 5, "steadiness": 1.0, "known": 1.0} for task, own in (tasks or {}).items()
        },
    }


def summary(heads, note="", **changed):
    about = {"prompts": 10, "short_prompts": 0, "shortest": 32}
    return {"note": note, "heads": heads, "unused_files": {}} | about | changed


@pytest.fixture
def printed(monkeypatch, capsys):
    monkeypatch.delenv("COLUMNS", raising=False)

    def of(heads, note="", **changed):
        print_summary(summary(heads, note, **changed))
        return capsys.readouterr().out

    return of


def test_heads_are_grouped_by_what_they_do_and_nothing_is_wider_than_a_line(printed):
    tasks = {"eol": "self", "random": "local band", "boolean_operator": None}
    said = printed(
        [
            head(0, 1, "local band", 0.5, unknown=[("vote", 0.25)], tasks=tasks),
            head(1, 0, "local band", 0.9),
            head(3, 11, None, 0.0, unknown=[("name", 0.75), ("structure", 0.25)]),
        ],
        note="The atlas was fitted on other models (x).",
    )
    lines = said.splitlines()
    assert lines[0].startswith("The atlas was fitted on other models")
    assert max(map(len, lines)) <= 80
    first = next(line for line in lines if line.strip().startswith("local band"))
    assert first.split("local band")[1].split() == ["2", "1.0", "(90%),", "0.1", "(50%)"]
    assert any(line.strip().startswith("unknown throughout") for line in lines)
    assert "self in eol" in said
    assert "58.3% of 30 tags of 3 heads, on 10 prompts" in " ".join(said.split())
    assert "25.0% near clusters that do something else" in " ".join(said.split())
    assert "8.3% without structure" in " ".join(said.split())


def test_a_head_that_is_unknown_on_most_prompts_does_not_mostly_do_what_its_name_says(printed):
    said = printed([head(0, 1, "induction", 0.3, unknown=[("vote", 0.7)])])
    assert said.count("mostly unknown") == 2 and "induction" not in said
    assert "of 10 tags of 1 head, on" in " ".join(said.split())


def test_of_many_heads_the_steadiest_of_each_name_are_listed(printed):
    heads = [head(layer, number, "self", 0.9) for layer in range(10) for number in range(10)]
    said = printed([*heads, head(10, 0, "induction", 0.1)])
    assert "10.0" in said and "the other 61 too" in " ".join(said.split())


def test_the_first_of_each_group_come_before_the_second_of_any():
    groups = [["a1", "a2", "a3"], ["b1"], ["c1", "c2"]]
    assert steadiest(groups, 3) == ["a1", "b1", "c1"]
    assert steadiest(groups, 4) == ["a1", "a2", "b1", "c1"]
    assert steadiest(groups, 9) == ["a1", "a2", "a3", "b1", "c1", "c2"]
    assert steadiest([], 9) == []


def test_one_tag_does_not_make_a_head_the_steadiest(printed):
    lucky = head(4, 4, "induction", 1.0) | {"tags": 1}
    said = printed([head(0, 1, "self", 0.9), lucky])
    assert "too few tags to say" in said and "induction" not in said
    alone = printed([lucky | {"tags": 2}], prompts=2)
    assert "induction" in alone and "With 2 prompts little can be said" in " ".join(alone.split())


@pytest.mark.parametrize(("tags", "steadiness", "listed"), [(5, 0.6, True), (5, 0.4, False), (4, 1.0, False)])
def test_what_a_head_does_in_a_task_needs_most_of_five_tags(tags, steadiness, listed):
    one = head(0, 1, "self", 0.9)
    one["tasks"] = {"eol": {"name": "induction", "tags": tags, "steadiness": steadiness, "known": 1.0}}
    assert list(exceptions_of(one)) == ["eol"] * listed


def test_names_of_a_tag_or_two_are_counted_together():
    names = [("self", 0.9), ("induction", 0.05), ("uniform", 0.02), ("diffuse", 0.02), ("unknown", 0.01)]
    one = {"tags": 100, "names": [{"name": name, "share": share} for name, share in names]}
    assert names_words(one, 5) == "self 90%; induction 5%; 3 others 5.0%"
    assert names_words(one | {"names": one["names"][:1]}, 5) == "self 90%"


@pytest.mark.parametrize(("short", "said"), [(0, False), (1, False), (20, True)])
def test_short_prompts_are_mentioned_if_they_matter(printed, short, said):
    shown = " ".join(printed([head(0, 1, "some self", 0.9)], prompts=100, short_prompts=short).split())
    assert ("20 of 100 prompts (20%) have fewer than 32 tokens" in shown) == said
    assert "'some' before a kind" in shown and "'mixed'" not in shown

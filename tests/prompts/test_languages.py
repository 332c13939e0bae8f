import re
import sys
from importlib import resources

import pytest

from apmae.config import TASKS, PromptsConfig, tasks_of
from apmae.errors import ConfigError
from apmae.prompts.languages import LANGUAGES, Grammar, language_of, load_grammar, load_query
from apmae.prompts.tasks import OPERATORS, find_spans

FOUND = [grammar for language in LANGUAGES.values() for grammar in language.grammars.values() if grammar is not None]
GRAMMARS = list(dict.fromkeys(FOUND))  # in the same order in every process


def test_the_settings_know_every_language():
    assert set(LANGUAGES) == set(PromptsConfig.model_fields["language"].annotation.__args__)


def test_a_suffix_belongs_to_one_language():
    suffixes = [suffix for language in LANGUAGES.values() for suffix in language.suffixes]
    assert len(suffixes) == len(set(suffixes))


@pytest.mark.parametrize("grammar", GRAMMARS, ids=lambda grammar: grammar.function + "-" + "-".join(grammar.queries))
def test_a_query_has_each_task_and_nothing_else(grammar):
    query = load_query(grammar, frozenset({"operator"}))
    names = {query.capture_name(index) for index in range(query.capture_count)}
    nodes = set(TASKS) - {"eol", "random"} - set(OPERATORS)
    assert nodes | {"operator", "_comment", "_text", "_error"} <= names
    assert names <= nodes | {"operator", "_comment", "_text", "_error", "_never", "_signed"}


def test_every_query_file_is_used():
    folder = resources.files("apmae.prompts").joinpath("queries")
    assert {file.name.removesuffix(".scm") for file in folder.iterdir()} == {
        name for grammar in GRAMMARS for name in grammar.queries
    }


@pytest.mark.parametrize("language", ["go", "rust"])
def test_a_grammar_that_is_not_installed_is_named(language, monkeypatch):
    monkeypatch.setitem(sys.modules, f"tree_sitter_{language}", None)  # so Python cannot import it
    load_grammar.cache_clear()
    load_query.cache_clear()
    with pytest.raises(ConfigError, match=f"expected the grammar tree-sitter-{language}.*pip install tree-sitter-"):
        find_spans("x", language)
    assert find_spans("class A {}", "java")["closing_bracket"] == [(9, 10)]


def test_an_unknown_language_is_refused():
    with pytest.raises(ConfigError, match=re.escape("expected a language among cpp, go, java")):
        language_of("cobol")
    assert isinstance(language_of("java").grammar("anything"), Grammar)


def test_the_tasks_of_the_settings_are_those_of_the_language():
    for language in LANGUAGES:
        assert PromptsConfig(language=language).tasks == tasks_of(language)
    assert PromptsConfig(language="text", tasks=("number", "random")).tasks == ("number", "random")
    with pytest.raises(ValueError, match="language 'text' has no task eol: choose from sentence_end, number"):
        PromptsConfig(language="text", tasks=("eol", "random"))
    with pytest.raises(ValueError, match="language 'go' has no task quote, number"):
        PromptsConfig(language="go", tasks=("quote", "number"))

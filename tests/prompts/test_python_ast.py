"""Python's own parser as the oracle: as many spans of each task as ``ast`` has nodes, in the source of this package."""

import ast
from importlib import resources

import pytest

from apmae.prompts.tasks import parse_spans

FILES = sorted((resources.files("apmae")).glob("**/*.py"))


def expected(tree):
    count = dict.fromkeys(
        ["boolean_literal", "numeric_literal", "boolean_operator", "math_operator", "assignment_operator"], 0
    )
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=bool()):
                count["boolean_literal"] += 1
            case ast.Constant(value=int() | float() | complex()):
                count["numeric_literal"] += 1
            case ast.Compare(ops=operators):
                count["boolean_operator"] += len(operators)
            case ast.BoolOp(values=values):
                count["boolean_operator"] += len(values) - 1
            case ast.UnaryOp(op=ast.Not()):
                count["boolean_operator"] += 1
            case ast.UnaryOp() | ast.BinOp():
                count["math_operator"] += 1
            case ast.Assign(targets=targets):
                count["assignment_operator"] += len(targets)
            case ast.AugAssign() | ast.NamedExpr():
                count["assignment_operator"] += 1
            case ast.AnnAssign(value=value):
                count["assignment_operator"] += value is not None
            case ast.keyword(arg=name):
                count["assignment_operator"] += name is not None
            case ast.arguments(defaults=defaults, kw_defaults=others):
                count["assignment_operator"] += len(defaults) + sum(other is not None for other in others)
            case _:
                pass
    return count


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_as_many_spans_as_nodes(file):
    text = file.read_text()
    parsed = parse_spans(text, "python")
    assert not parsed.has_error
    count = expected(ast.parse(text))
    assert {task: len(parsed.spans[task]) for task in count} == count

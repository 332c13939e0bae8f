; The spans of Python that the tasks take out; see java.scm for how this file is read.

; also those of f-string fields
[")" "]" "}"] @closing_bracket

[(true) (false)] @boolean_literal

; prefix and quotes belong to the node; docstrings, bytes and f-strings are strings
(string) @string_literal

[(integer) (float)] @numeric_literal

(identifier) @identifier

(boolean_operator operator: _ @operator)
(not_operator "not" @operator)
(comparison_operator operators: _ @operator)
(binary_operator operator: _ @operator)
(unary_operator operator: _ @operator)
; list[int] | None, where int | None is a binary_operator
(union_type "|" @operator)

; arguments by name and default values bind a name to a value, too
(assignment "=" @assignment_operator)
(augmented_assignment operator: _ @assignment_operator)
(named_expression ":=" @assignment_operator)
(keyword_argument "=" @assignment_operator)
(default_parameter "=" @assignment_operator)
(typed_default_parameter "=" @assignment_operator)

(comment) @_comment
(string) @_text
(ERROR) @_error

; The spans of Java that the tasks take out: one capture name a task, each capturing exactly its span.
; operator, _comment, _text and _never are no tasks: prompts/tasks.py sorts operators and keeps spans
; away from the rest.

[")" "]" "}"] @closing_bracket
(type_arguments ">" @closing_bracket)
(type_parameters ">" @closing_bracket)

[(true) (false)] @boolean_literal

; covers text blocks
(string_literal) @string_literal

; suffixes (L, f, d) and underscores belong to the node, a sign does not
[
  (decimal_integer_literal)
  (hex_integer_literal)
  (octal_integer_literal)
  (binary_integer_literal)
  (decimal_floating_point_literal)
  (hex_floating_point_literal)
] @numeric_literal

[(identifier) (type_identifier)] @identifier

; prompts/tasks.py tells a boolean from a math operator by its text, the same in every language
(binary_expression operator: _ @operator)
(unary_expression operator: _ @operator)
(update_expression ["++" "--"] @operator)

(assignment_expression operator: _ @assignment_operator)
(variable_declarator "=" @assignment_operator)
(resource "=" @assignment_operator)
(element_value_pair "=" @assignment_operator)

[(line_comment) (block_comment)] @_comment
(string_literal) @_text
(ERROR) @_never

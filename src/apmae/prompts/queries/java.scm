; The spans of Java that the tasks take out: one capture name per task, capturing exactly its span. Not tasks, but read
; by prompts/tasks.py as well: operator (sorted there by its text), _never (a node that is no span of its task here),
; _signed (a number that may begin with its sign), _comment and _text (kept out of eol) and _error (kept out of everything).

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
(ERROR) @_error

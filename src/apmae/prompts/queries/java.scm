; The spans of Java that the tasks take out: one capture name a task, each capturing exactly its span.
; _comment, _text and _error are no tasks: prompts/tasks.py keeps spans away from them.

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

; comparisons yield a boolean: they count here
(binary_expression operator: ["&&" "||" "==" "!=" "<" "<=" ">" ">="] @boolean_operator)
(unary_expression operator: "!" @boolean_operator)

; bitwise operators count here, also where their operands are boolean: the syntax does not tell
(binary_expression operator: ["+" "-" "*" "/" "%" "&" "|" "^" "<<" ">>" ">>>"] @math_operator)
(unary_expression operator: ["+" "-" "~"] @math_operator)
(update_expression ["++" "--"] @math_operator)

(assignment_expression operator: [
  "=" "+=" "-=" "*=" "/=" "%=" "&=" "|=" "^=" "<<=" ">>=" ">>>="
] @assignment_operator)
(variable_declarator "=" @assignment_operator)
(resource "=" @assignment_operator)
(element_value_pair "=" @assignment_operator)

[(line_comment) (block_comment)] @_comment
(string_literal) @_text
(ERROR) @_error

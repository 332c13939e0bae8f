; The spans of JavaScript that the tasks take out, together with jsx.scm; see java.scm for how this file is read.

; also those of template strings
[")" "]" "}"] @closing_bracket

[(true) (false)] @boolean_literal

[(string) (template_string)] @string_literal

; the n of a big integer belongs to the node
(number) @numeric_literal

; the # of a private name belongs to the node
[
  (identifier)
  (property_identifier)
  (private_property_identifier)
  (shorthand_property_identifier)
  (shorthand_property_identifier_pattern)
  (statement_identifier)
] @identifier

(binary_expression operator: _ @operator)
(unary_expression operator: _ @operator)
(update_expression operator: _ @operator)

; default values bind a name to a value, too
(assignment_expression "=" @assignment_operator)
(augmented_assignment_expression operator: _ @assignment_operator)
(variable_declarator "=" @assignment_operator)
(assignment_pattern "=" @assignment_operator)
(object_assignment_pattern "=" @assignment_operator)
(field_definition "=" @assignment_operator)

[(comment) (html_comment) (hash_bang_line)] @_comment
[(string) (template_string)] @_text
(ERROR) @_error

; The spans of Go that the tasks take out; see java.scm for how this file is read.

[")" "]" "}"] @closing_bracket

[(true) (false)] @boolean_literal

; the path of an import is a string; a rune is none
[(interpreted_string_literal) (raw_string_literal)] @string_literal

[(int_literal) (float_literal) (imaginary_literal)] @numeric_literal

; also those that Go declares itself: int, len, append
[
  (identifier)
  (type_identifier)
  (field_identifier)
  (package_identifier)
  (label_name)
] @identifier

(binary_expression operator: _ @operator)
; * and & take what a pointer points at and back
(unary_expression operator: ["!" "+" "-" "^"] @operator)
(inc_statement "++" @operator)
(dec_statement "--" @operator)

; the = of a type alias is none
(assignment_statement operator: _ @assignment_operator)
(short_var_declaration ":=" @assignment_operator)
(var_spec "=" @assignment_operator)
(const_spec "=" @assignment_operator)
(range_clause ["=" ":="] @assignment_operator)
(receive_statement ["=" ":="] @assignment_operator)
(type_switch_statement ":=" @assignment_operator)

(comment) @_comment
(raw_string_literal) @_text
(ERROR) @_error

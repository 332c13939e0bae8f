; The spans of Rust that the tasks take out; see java.scm for how this file is read.
; To the grammar, a macro's brackets hold a list of tokens: it knows brackets, names and literals there, but not operators.

[")" "]" "}"] @closing_bracket
(type_arguments ">" @closing_bracket)
(type_parameters ">" @closing_bracket)

(boolean_literal) @boolean_literal

; prefixes belong to the node; a character is no string
[(string_literal) (raw_string_literal)] @string_literal

; suffixes (u8) belong to the node; the 0 of pair.0 is a field
[(integer_literal) (float_literal)] @numeric_literal
(field_expression field: (integer_literal) @_never)

[
  (identifier)
  (type_identifier)
  (field_identifier)
  (shorthand_field_identifier)
] @identifier
; 'a is a lifetime or a label
(lifetime (identifier) @_never)
(label (identifier) @_never)

(binary_expression operator: _ @operator)
(let_chain "&&" @operator)
(unary_expression ["-" "!"] @operator)

; not of types, and not of attributes
(assignment_expression "=" @assignment_operator)
(compound_assignment_expr operator: _ @assignment_operator)
(let_declaration "=" @assignment_operator)
(let_condition "=" @assignment_operator)
(const_item "=" @assignment_operator)
(static_item "=" @assignment_operator)
(enum_variant "=" @assignment_operator)

[(line_comment) (block_comment)] @_comment
[(string_literal) (raw_string_literal)] @_text
(ERROR) @_error

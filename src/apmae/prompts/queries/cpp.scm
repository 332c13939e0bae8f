; The spans of C++ that the tasks take out; see java.scm for how this file is read.

[")" "]" "}"] @closing_bracket
(template_argument_list ">" @closing_bracket)
(template_parameter_list ">" @closing_bracket)
; of R"x(...)x"
(raw_string_literal ")" @_never)

[(true) (false)] @boolean_literal

; a suffix (""s) is outside; the name of a header is no string
[(string_literal) (raw_string_literal)] @string_literal
(preproc_include path: (string_literal) @_never)

(number_literal) @numeric_literal
; -1 is a single node if no operand comes before it
(number_literal) @_signed

; int, size_t and the like are keywords to this grammar
[
  (identifier)
  (type_identifier)
  (field_identifier)
  (namespace_identifier)
  (statement_identifier)
] @identifier

; << and >> are math operators, even where they print and read: the syntax does not show which
(binary_expression operator: _ @operator)
(unary_expression operator: _ @operator)
(update_expression operator: _ @operator)
(fold_expression operator: _ @operator)
; of a requires clause
(constraint_conjunction operator: _ @operator)
(constraint_disjunction operator: _ @operator)

; not of "= 0", "= default", "= delete", of types or of namespaces
(assignment_expression operator: _ @assignment_operator)
(init_declarator "=" @assignment_operator)
(declaration "=" @assignment_operator)
(field_declaration "=" @assignment_operator)
(field_declaration declarator: (function_declarator) "=" @_never)
(field_declaration declarator: (function_declarator) default_value: (number_literal) @_never)
(optional_parameter_declaration "=" @assignment_operator)
(enumerator "=" @assignment_operator)
(initializer_pair "=" @assignment_operator)
(lambda_capture_initializer "=" @assignment_operator)

(comment) @_comment
[(string_literal) (raw_string_literal) (preproc_arg)] @_text
(ERROR) @_error

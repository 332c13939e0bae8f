; What JSX adds to JavaScript and TypeScript.

; prose between elements has no line ends of code
(jsx_text) @_text

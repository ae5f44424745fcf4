"""Texts that try to be more than text: markup, script, hidden characters, other directions, great length."""

from __future__ import annotations

SCRIPT = "<script>window.ran = 'script'</script>"
"""Runs where a text is taken as markup."""
MARKUP = (
    SCRIPT,
    "<img src=x onerror=\"window.ran = 'onerror'\">",
    "</script><script>window.ran = 'end of data'</script>",
    "</title></style></textarea></svg><!--",
    "<!--<script>",
    '"\' autofocus onfocus=window.ran=1 x="',
    "javascript:window.ran=1",
    "{{ 7 * 7 }}{% raw %}${7 * 7}",
    "https://example.org/a.png?b&c=&lt;&amp;",
)
HIDDEN = {
    "name\x00end": "name[U+0000]end",
    "a\u202etxt.exe": "a[U+202E]txt.exe",
    "\u2067right\u2069": "[U+2067]right[U+2069]",
    "line\u2028end": "line[U+2028]end",
    "\ufeffmark": "[U+FEFF]mark",
    "\x1b[31mred": "[U+001B][31mred",
}
"""What a page shows of them."""
RIGHT_TO_LEFT = "אני מעדיף תשובה קצרה (ולא ארוכה)."
LONG_WORD = "W" * 10_000
LONG_TEXT = "A line of words that goes on. " * 334
HOSTILE = (*MARKUP, *HIDDEN, RIGHT_TO_LEFT, LONG_WORD, LONG_TEXT)

"""HTML pages of texts that others wrote: whatever a text holds, the page shows it as text.

A page is one file: no script, nothing loaded, and a policy that forbids both. Knows no rows.
"""

from functools import cache
from html import escape
from unicodedata import category

from analyses.figures.canvas import shortened

LONGEST = 80
"""Characters of a name, a place or a token that are written."""
LEVELS = "abcdef"
"""Classes of background, from faint to strong."""
UNDERLINED = 3
"""The first level that is underlined too, for whoever does not see the colours."""
JOINERS = "\u200c\u200d"
"""Invisible, but part of how words of some scripts and some emoji are written."""
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"

STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1b1b1b; --faint: #5c5c5c;
  --line: #dddddd; --link: #1d4f91; --note: #a31621;
  --a: #fff6e3; --b: #ffe9bf; --c: #ffd58a; --d: #ffbb5c; --e: #ff9a3d; --f: #f2762b; }
@media (prefers-color-scheme: dark) { :root { --paper: #16181b; --ink: #f0eeea; --faint: #a9a6a0;
  --line: #3a3d41; --link: #9cc3f5; --note: #ff9a92;
  --a: #2a241a; --b: #3d3018; --c: #553f14; --d: #704a0f; --e: #8a4d0b; --f: #a5500a; } }
body { margin: 0 auto; padding: 1rem; max-width: 48rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.6 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: .5rem 0; }
h2 { font-size: 1.2rem; margin: 2rem 0 0; border-top: 1px solid var(--line); padding-top: 1rem; }
a { color: var(--link); }
nav { columns: 8rem; font-size: .9rem; }
nav a { display: block; padding: .15rem 0; }
section { content-visibility: auto; contain-intrinsic-size: auto 70rem; }
ol { padding-left: 2.2rem; margin: .5rem 0; }
li { margin: .7rem 0; }
p { margin: .4rem 0; }
table { border-collapse: collapse; margin: .5rem 0; font-size: .9rem; }
th, td { padding: .15rem .8rem .15rem 0; text-align: left; vertical-align: top;
  overflow-wrap: normal; }
td:first-child { min-width: 5.5rem; overflow-wrap: anywhere; }
th { color: var(--faint); font-weight: 600; }
.note { color: var(--note); font-weight: 600; }
.small { color: var(--faint); font-size: .85rem; }
.text { white-space: pre-wrap; unicode-bidi: isolate; overflow: clip; margin: 0; }
i { font-style: normal; }
i, u { border-radius: .15em; color: var(--ink); }
u { text-underline-offset: .2em; text-decoration-thickness: .1em; }
.a { background: var(--a); } .b { background: var(--b); } .c { background: var(--c); }
.d { background: var(--d); } .e { background: var(--e); } .f { background: var(--f); }
@media print { section { content-visibility: visible; } }
"""


def write_page(title: str, body: str) -> str:
    """A whole page; `title` is any text, `body` is HTML."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n'
        f"<title>{plain(title, 200)}</title>\n<style>{STYLE}</style>\n</head>\n"
        f'<body id="top">\n{body}\n</body>\n</html>\n'
    )


def plain(text: str, most: int = LONGEST) -> str:
    """HTML that shows `text`, or its beginning. It never holds markup, nor a character that cannot
    be seen, such as one that turns the direction of what follows: that is spelled out."""
    return escape(visible(shortened(text, most)), quote=True)


def mark(text: str, level: int) -> str:
    """A token on the background of its level, 1 to 6; at level 0 on none."""
    if not level or not text:
        return plain(text)
    tag = "u" if level >= UNDERLINED else "i"
    return f"<{tag} class={LEVELS[level - 1]}>{plain(text)}</{tag}>"


def visible(text: str) -> str:
    """`text` with what cannot be seen spelled out: a line break as ↵, the rest by sign or number.

    UTF-8 can hold all that is returned."""
    return text if text.isprintable() else "".join(map(_visible, text))


@cache
def _visible(character: str) -> str:
    if character.isprintable() or character in JOINERS or category(character) == "Zs":
        return character
    code = ord(character)
    if character == "\n":
        return "↵"
    return chr(0x2400 + code) if code < 0x20 else f"⟨U+{code:04X}⟩"

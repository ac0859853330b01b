"""Configurations from templates.

`fill` puts values in place of `@NAME@`. `compose` does so with two files: the `base` of a proxy, which every setup shares, and the
file of one setup, whose parts begin with a line `#: name` and go where the base has a line `@name@`. A part that the setup
does not have leaves nothing behind. What goes into a line of its own is indented like that line, so that YAML stays YAML.
"""

import re
import textwrap

from pathlib import Path

from .servers import Failure

CONF = Path(__file__).resolve().parent / "conf"
BODY = b"x" * 1024


def fill(template, target, **values):
    """Writes a configuration from a template in `conf/` with @NAME@ in it."""
    return write((CONF / template).read_text(), target, values, template)


def compose(proxy, setup, target, values):
    """Writes the configuration of a proxy for one setup."""
    base, own = (next((CONF / proxy).glob(f"{name}.*"), None) for name in ("base", setup))
    if base is None or own is None:
        raise Failure(f"{proxy} has no template for `{setup}` in {CONF / proxy}")
    return write(insert(base.read_text(), parts(own.read_text())), target, values, own)


def setups(proxy):
    """The setups that a proxy has a template for."""
    return {file.stem for file in (CONF / proxy).iterdir()}


def parts(text):
    """The parts of a setup by their names; what stands before the first is a comment."""
    pieces = re.split(r"^#: (\w+)\n", text, flags=re.M)
    return dict(zip(pieces[1::2], pieces[2::2]))


def insert(text, found):
    """Puts parts in place of their lines."""
    def one(line):
        """What stands for a line."""
        return block(textwrap.dedent(found.get(line[2], "")), line[1])

    return re.sub(r"^([ \t]*)@([a-z_]+)@\n", one, text, flags=re.M)


def block(text, indent):
    """Lines in place of a line; of nothing, nothing."""
    return textwrap.indent(text.rstrip("\n") + "\n", indent) if text.strip() else ""


def write(text, target, values, origin):
    """Puts values in place of their names, and writes the file."""
    upper = {name: str(value) for name, value in values.items()}
    text = re.sub(r"^([ \t]*)@([A-Z_0-9]+)@\n", lambda line: block(upper[line[2]], line[1])
                  if line[2] in upper else line[0], text, flags=re.M)
    for name, value in upper.items():
        text = text.replace(f"@{name}@", value)
    if left := re.search(r"@[A-Z_]+@", text):
        raise Failure(f"{origin}: {left[0]} has no value")
    target.write_text(text)
    return target

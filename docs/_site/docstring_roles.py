"""A griffe extension: the roles of docstrings become links, and an example is shown as code."""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:class|func|mod|meth|attr|data|exc):`(~?)([\w.]+)`")
NAMES = re.compile(r"(?m)^ +\w+(?:, \w+)+(?=: )")  # several names of one description, which griffe takes for a type


def in_markdown(text: str, scope: griffe.Object | None = None) -> str:
    """Return a docstring in Markdown.

    Args:
        text: The docstring, with Sphinx's roles.
        scope: The object that it documents; short names are looked up there.
    """

    def link(role: re.Match[str]) -> str:
        short, name = role.groups()
        target = name
        if scope is not None and not name.startswith("dap."):
            try:
                target = scope.resolve(name)
            except griffe.NameResolutionError:
                return f"`{name}`"
        shown = name.rpartition(".")[2] if short else name
        return f'<autoref identifier="{target}" optional><code>{shown}</code></autoref>'

    text = NAMES.sub(lambda names: names[0].replace(", ", ",\N{NO-BREAK SPACE}"), ROLE.sub(link, text))
    return re.sub(r"(?m)^(\s*)Example:$", r"\1Examples:", text)


class DocstringRoles(griffe.Extension):
    """Applies :func:`in_markdown` to every docstring of the package."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change the docstring of one object."""
        if obj.docstring is not None:
            obj.docstring.value = in_markdown(obj.docstring.value, obj)

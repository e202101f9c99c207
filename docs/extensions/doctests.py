"""Shows the examples of docstrings, which are doctests without a fence, as code."""

import re

import griffe


class Doctests(griffe.Extension):
    """Puts a fence around each run of lines that begins with `>>>` and ends at an empty line."""

    def on_object(self, *, obj, **kwargs):
        if obj.docstring:
            obj.docstring.value = re.sub(
                r"^>>> .*?(?=\n\s*\n|\Z)", r"```pycon\n\g<0>\n```", obj.docstring.value, flags=re.MULTILINE | re.DOTALL
            )

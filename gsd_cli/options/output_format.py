"""How options that name an output can contradict each other."""

from __future__ import annotations

from pathlib import Path

JSON_ON_STDOUT = "--json and -o - both write to stdout"


def contradicting_formats(format_: str, output: str, *, folder: bool) -> tuple[str, str]:
    """The problem and the hint where --format does not fit -o, which is a folder or a file of another format."""
    if folder:
        fitting = f"{output.rstrip('/')}.{format_}"
        return f"--format {format_} writes one file, and -o {output} is a folder", f"give -o {fitting}"
    fitting = str(Path(output).with_suffix(f".{format_}"))
    return f"--format {format_} contradicts -o {output}", f"leave out --format, or give -o {fitting}"

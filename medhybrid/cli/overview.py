"""Short screen of the commands, grouped in the order of a study; shown without arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping

from medhybrid.version import __version__

GROUPS: dict[str, tuple[str, ...]] = {
    "Start": ("demo", "inspect", "init", "plan"),
    "Prepare": ("preprocess", "convert", "config"),
    "Train": ("train", "cross-validate", "pretrain", "tune", "reproduce"),
    "Apply": ("predict", "listen", "serve", "export", "import", "models"),
    "Assess": ("evaluate", "report", "review", "compare", "promote"),
}
"""Commands in the order of a study; each command is in one group."""

FIRST_STEPS = (
    ("medhybrid demo", "all steps, on synthetic scans"),
    ("medhybrid train DATA --minutes 30", "scans with masks to a model"),
    ("medhybrid predict SCANS --model RUN --out OUT", "new scans to masks"),
    ("medhybrid review OUT", "look at masks in a browser"),
)


def overview(commands: Mapping[str, Callable[..., object]]) -> str:
    """Return the screen: first steps, then every command with the first line of its description.

    Parameters
    ----------
    commands : mapping
        Functions of the commands by name.
    """
    lines = [f"medhybrid {__version__}: segmentation of MR and CT scans, from scans to reviewed masks", ""]
    width = max(len(command) for command, _ in FIRST_STEPS)
    lines += [f"  {command:<{width}}  {purpose}" for command, purpose in FIRST_STEPS]
    names = max(map(len, commands))
    for title, group in GROUPS.items():
        lines.append("")
        for i, name in enumerate(group):
            purpose = (inspect.getdoc(commands[name]) or "").splitlines()[0].rstrip(".")
            lines.append(f"{title if i == 0 else '':<7}  {name:<{names}}  {purpose}")
    lines += ["", "medhybrid COMMAND --help explains a command."]
    return "\n".join(lines)

"""Draft of a study's config, from the files of a dataset alone.

`draft_study` recognises the layout, names channels and labels, and reads some cases to learn the modality and the volumes of
the labels. `draft.text` writes the draft as YAML, with the reason for each value.
"""

from medhybrid.draft.draft import Draft, DraftChannel, DraftLabel
from medhybrid.draft.study import draft_study
from medhybrid.draft.text import config_text

__all__ = ["Draft", "DraftChannel", "DraftLabel", "config_text", "draft_study"]

"""Command line: the report page, the certificate, and tables on the terminal or in files."""

from tw_lens.cli import (  # noqa: F401 - they register
    head_commands,
    page_commands,
    paper_commands,
    study_commands,
)
from tw_lens.cli.application import app

__all__ = ["app"]

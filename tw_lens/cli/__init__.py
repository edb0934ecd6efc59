"""Command line: the report page, the certificate, and tables on the terminal or in files."""

from tw_lens.cli import head_commands, page_commands, study_commands  # noqa: F401 - they register
from tw_lens.cli.application import app

__all__ = ["app"]

"""Studies of the papers that nvrm_fast implements, as commands: ``python -m studies NAME``; README.md says more."""


class StudyError(ValueError):
    """A setting, a file or a package that the user can correct; the message names it and the remedy."""

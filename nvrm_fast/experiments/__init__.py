"""The studies of the NVRM paper (Xie et al. 2021) as commands: ``python -m nvrm_fast.experiments STUDY``.

A study lives in a module of its own with ``HELP``, ``add_arguments(parser)`` and ``main(arguments)``
and has one line in the table of ``__main__.py``.
"""


class StudyError(ValueError):
    """A setting or a data set that the user can mend; the message names the argument and the remedy."""

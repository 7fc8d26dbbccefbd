"""The studies of the papers as commands: ``python -m nvrm_fast.experiments STUDY``.

label-noise is of Xie et al. 2021 (NVRM), injection-* and probe are of Levi et al. 2022 (noise injection).

A study lives in a module of its own with ``HELP``, ``add_arguments(parser)`` and ``main(arguments)``
and has one line in the table of ``__main__.py``.
"""


class StudyError(ValueError):
    """A setting or a data set that the user can mend; the message names the argument and the remedy."""

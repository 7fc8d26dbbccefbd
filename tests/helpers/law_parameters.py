"""Parameters to try each distribution of the angle with, by its code; 0 is no law. A new law takes a line here."""

from nvrm_fast.contract.laws import LAWS

#: law_param_0 and law_param_1.
PARAMETERS = {0: (None, None), 1: (0.3, None), 2: (0.3, None), 3: (0.2, 0.5), 4: (0.7, None), 5: (5.0, None)}
assert set(PARAMETERS) == {0, *LAWS}, "a law of nvrm_fast/contract/laws.py has no parameters here"

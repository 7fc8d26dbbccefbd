"""What every backend agrees on and none owns: streams, seeds, distributions, laws, rules and checks.

Imports nothing of nvrm_fast but itself.
"""

"""What every backend agrees on and none owns: streams, seeds, distributions, angle laws, rules,
records, arguments and checks.

Imports nothing of nvrm_fast but itself.
"""

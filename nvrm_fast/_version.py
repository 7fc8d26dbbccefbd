__version__ = "0.2.0"

#: Of the operators, between Python and native code: raised when what ops/native.py calls changes, so that a native
#: module that was built for another one is left out and not mixed in.
INTERFACE = 8

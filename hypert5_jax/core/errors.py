"""The one error for mistakes a user can make and mend.

The front doors catch it, print its message alone and exit with code 2; everything
else is a defect of ours and keeps its traceback.
"""


class UserError(Exception):
    """A mistake of the caller's: what was given, what was expected, what to do."""

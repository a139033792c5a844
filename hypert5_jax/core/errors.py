"""The two errors that are no defects of ours: they are told by their message alone.

Front doors print it and exit, with code 2 for what a person must mend and with 1 for
storage that failed in a way that may pass (core/storage.py says which is which); every
other exception is a defect and keeps its traceback.
"""


class UserError(Exception):
    """A mistake of the caller's: what was given, what was expected, what to do."""


class StorageError(Exception):
    """Files cannot be read or written for now; the same command may go on later."""

"""Everything that can go wrong and that a user can mend.

    EngineError                 one line: what, where, what to do next; exit code 1
    |- UsageError               a setting or an argument makes no sense; exit code 2
    |- BadValue                 a value given for a setting is unknown or out of range
    |- ProtocolError            a protocol folder is missing, incomplete or contradicts itself
    |- LedgerError              the database cannot be used as it is
    |  |- SchemaTooNew          written by a newer version of this program
    |  |- WorkspaceBusy         another engine writes to this workspace
    |  |- LeaseLost             a fencing token is no longer valid: another worker owns the row
    |- FingerprintMismatch      texts, arrays or vectors were made with other settings
    |- StoreCorrupt             bytes on disk do not match their receipt
    |- NotReady                 an earlier stage has not been run for this reader and corpus
    |- ModelError               a model cannot be found, loaded or trusted
    |- BackendError             a generation backend refuses or cannot answer
    |  |- QuotaUsedUp           a provider refuses until its quota resets
    |- NoRoom                   this machine lacks the disk or the memory that the work needs
    |- Stopped                  the user ended the work; what was finished is kept; exit code 130

A bug keeps its traceback: only `EngineError` is turned into one line by the command line.
"""


class EngineError(Exception):
    """Base of every expected failure. The message names the thing, the place and the next step."""

    exit_code = 1


class UsageError(EngineError):
    """A setting or an argument makes no sense."""

    exit_code = 2


class BadValue(EngineError):
    """A value given for a setting is unknown or out of range; nothing was begun."""


class ProtocolError(EngineError):
    """A protocol folder is missing, incomplete or contradicts itself."""


class LedgerError(EngineError):
    """The database cannot be used as it is."""


class SchemaTooNew(LedgerError):
    """The database was written by a newer version of this program."""


class WorkspaceBusy(LedgerError):
    """Another engine writes to this workspace."""


class LeaseLost(LedgerError):
    """A lease's fencing token is no longer valid: the row has another owner or attempt."""


class FingerprintMismatch(EngineError):
    """Texts, arrays or vectors on disk were made with other settings than the ones given."""


class StoreCorrupt(EngineError):
    """Bytes on disk do not match their receipt."""


class NotReady(EngineError):
    """An earlier stage has not been run for this reader and corpus."""


class ModelError(EngineError):
    """A model cannot be found, loaded or trusted."""


class BackendError(EngineError):
    """A generation backend refuses or cannot answer."""


class QuotaUsedUp(BackendError):
    """A provider refuses until its quota resets: nothing is wrong, and nothing more can be done."""


class NoRoom(EngineError):
    """This machine lacks the disk or the memory that the work needs; nothing was begun."""


class Stopped(EngineError):
    """The user ended the work before it was done; what was finished is kept."""

    exit_code = 130

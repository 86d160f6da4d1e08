"""Errors by consequence: each class is one exit status of DESIGN's table and one JSON code.

Layer: core. An error is for what stops a command; a normal result (skipped, denied, not settable)
is a value. Messages are in the operator's words and every error says what to do next (`hint`).
"""


class HostagentError(Exception):
    """Base of all errors shown to a person. `changed` says whether something may have changed."""

    exit_code = 1
    code = "failed"

    def __init__(self, message: str, *, hint: str = "", changed: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.changed = changed


class UsageError(HostagentError):
    """The command line or the configuration is wrong; nothing was done. Exit 2."""

    exit_code = 2
    code = "usage"


class RefusedError(HostagentError):
    """A precondition is missing; nothing was changed. Exit 4."""

    exit_code = 4
    code = "refused"


class LibvirtUnreachableError(RefusedError):
    """No answer from libvirt: not there, or it hangs. Exit 4."""

    code = "libvirt-unreachable"


class LibvirtCallError(HostagentError):
    """libvirt answered a call with an error that has no meaning of its own here. Exit 1."""

    code = "libvirt-error"


class AmbiguousError(HostagentError):
    """The world can't be told apart safely; a person must look. Exit 5."""

    exit_code = 5
    code = "ambiguous"

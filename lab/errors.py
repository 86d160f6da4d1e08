"""The lab's errors.

Layer: lab, nothing below it. A machine that can't do something is told apart from a fault of the
lab, since tests are skipped for the first and fail for the second.
"""


class LabError(Exception):
    """Something that the lab was asked for did not work; the text says what and what to do."""


class LabBusy(LabError):
    """The lab of that name is somebody else's; another name would do."""


class CannotRun(LabError):
    """This machine can't do it, and why."""

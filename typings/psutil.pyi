# The part of psutil that hostagent uses.
from typing import NamedTuple

class svmem(NamedTuple):
    total: int
    available: int

def virtual_memory() -> svmem: ...
def cpu_count(logical: bool = True) -> int | None: ...
def getloadavg() -> tuple[float, float, float]: ...

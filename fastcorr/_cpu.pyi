X86_LEVEL: int
OPENMP: int
COMPILER: str

def max_threads() -> int: ...

"""Words that follow numbers."""


def counted(n: int, noun: str) -> str:
    """1 picture, 2 pictures, 1,000 pictures."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"

"""Numbers of bytes in words, in decimal units everywhere, as disks are sold."""

GB, MB = 1e9, 1e6


def size(count: int, places: int = 2) -> str:
    """Bytes in words; with 3 places two that are to fit into each other can be told apart."""
    if count >= GB:
        return f"{count / GB:.{places}f} GB"
    return f"{count / MB:.{places}f} MB"

"""Numbers of bytes in words, everywhere the same: decimal units, as makers of disks count."""

GB, MB = 1e9, 1e6


def size(count: int, places: int = 2) -> str:
    """Bytes in words; with 3 places two that are to fit into each other can be told apart."""
    if count >= GB:
        return f"{count / GB:.{places}f} GB"
    return f"{count / MB:.{places}f} MB"

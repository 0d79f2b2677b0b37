"""Tables for the terminal."""


def text_table(rows: list[list[str]]) -> str:
    """Rows of equal length as aligned lines: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for title, *cells in rows:
        aligned = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
        lines.append("   ".join([title.ljust(widths[0]), *aligned]))
    return "\n".join(lines)

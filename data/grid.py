"""The cells of a probe canvas: their names and their order (row-major, as in the paper's probe)."""

_NAMES_3X3 = (
    *("top_left", "top_center", "top_right"),
    *("left", "center", "right"),
    *("bottom_left", "bottom_center", "bottom_right"),
)


def cell_names(grid: int) -> tuple[str, ...]:
    """Names of the `grid * grid` cells in row-major order.

    A 3x3 grid has the paper's names; every other size counts rows and columns from 1: `row2_col4`.
    """
    if grid == 3:
        return _NAMES_3X3
    return tuple(f"row{row + 1}_col{column + 1}" for row in range(grid) for column in range(grid))


def grid_of(names: set[str]) -> int | None:
    """Side of the smallest grid whose cells hold all `names`, or None if no grid of 2 to 6 has such cells."""
    return next((grid for grid in (3, 2, 4, 5, 6) if names <= set(cell_names(grid))), None)

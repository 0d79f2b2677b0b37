"""How large a picture becomes on its way through an image processor, before anything is allocated for it."""

from PIL import Image

# As many pixels as Pillow opens at most in one file (a decompression bomb has more): 2 GB as float32.
MOST_PIXELS = 2 * Image.MAX_IMAGE_PIXELS


def most_pixels(image_processor, width: int, height: int) -> int:
    """Pixels of the largest picture that the processor makes of one of `width` x `height`, before it crops.

    By family: LLaVA-1.5 pads to a square (original checkpoints) or scales the shorter side, whatever the longer one
    becomes; LLaVA-NeXT scales into one of its `image_grid_pinpoints`; Qwen2.5-VL into its bounds of pixels (and refuses
    sides of more than 200 to 1 itself); Gemma3 to one size.
    """
    size, most = image_processor.size, 0
    if pinpoints := getattr(image_processor, "image_grid_pinpoints", None):
        return max(rows * columns for rows, columns in pinpoints)
    if getattr(image_processor, "merge_size", None):
        return size["longest_edge"]  # pixels, by the name of a side
    if getattr(image_processor, "do_pad", False):
        width = height = max(width, height)
        most = width * height
    if not image_processor.do_resize:
        return max(most, width * height)
    if edge := size.get("shortest_edge"):
        return max(most, edge * int(edge * max(width, height) / min(width, height)))
    return max(most, size["height"] * size["width"])


def too_many_pixels(image_processor, width: int, height: int) -> str | None:
    """Why a picture of these sides in pixels cannot be resized within MOST_PIXELS, in one line; None if it can."""
    pixels = most_pixels(image_processor, width, height)
    if pixels <= MOST_PIXELS:
        return None
    what = "too thin" if pixels > width * height and min(width, height) * 100 < max(width, height) else "too large"
    return (
        f"{what}: of {width} x {height} px the checkpoint's image processor makes {pixels:,} pixels on its way, more "
        f"than {MOST_PIXELS:,}; crop or scale it"
    )

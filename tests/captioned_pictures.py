"""Small real image-caption sources for the tests of data/: crops of the bundled photographs."""

import io
import json
import tarfile
from pathlib import Path

from PIL import Image, ImageChops, ImageStat

PHOTOS = Path(__file__).parent.parent / "data" / "samples" / "photos"


def crops(count: int, size: tuple[int, int] = (120, 90)) -> list[tuple[bytes, str]]:
    """`count` different (JPEG file, caption) pairs cut out of the bundled photographs."""
    photos = [Image.open(path).convert("RGB") for path in sorted(PHOTOS.glob("*.jpg"))]
    pairs = []
    for index in range(count):
        photo, step = photos[index % len(photos)], index // len(photos)
        left, top = (step * 37) % (photo.width - size[0]), (step * 53) % (photo.height - size[1])
        buffer = io.BytesIO()
        photo.crop((left, top, left + size[0], top + size[1])).save(buffer, "JPEG", quality=90)
        pairs.append((buffer.getvalue(), f"crop number {index}"))
    return pairs


def write_folder(folder: Path, pairs: list[tuple[bytes, str]]) -> Path:
    """x.jpg beside x.txt, five to a subfolder."""
    for index, (image, caption) in enumerate(pairs):
        path = folder / f"{index // 5:05d}" / f"{index:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image)
        path.with_suffix(".txt").write_text(caption, encoding="utf-8")
    return folder


def write_captions(folder: Path, pairs: list[tuple[bytes, str]]) -> Path:
    """Images and one captions.jsonl."""
    (folder / "images").mkdir(parents=True)
    lines = []
    for index, (image, caption) in enumerate(pairs):
        (folder / "images" / f"{index}.jpg").write_bytes(image)
        lines.append(json.dumps({"image": f"images/{index}.jpg", "caption": caption}) + "\n")
    (folder / "captions.jsonl").write_text("".join(lines))
    return folder


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    """A tar archive of (name, content)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def shard_members(pairs: list[tuple[bytes, str]]) -> list[tuple[str, bytes]]:
    """The members of an img2dataset shard, in its order: image, JSON, text."""
    members = []
    for index, (image, caption) in enumerate(pairs):
        stem = f"{index:09d}"
        members += [(f"{stem}.jpg", image), (f"{stem}.json", b"{}"), (f"{stem}.txt", caption.encode())]
    return members


def read_tree(folder: Path) -> dict[str, bytes]:
    """Content of every file below `folder`."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def difference(left: Image.Image, right: Image.Image) -> float:
    """Mean absolute difference of the pixels, 0 to 255."""
    return sum(ImageStat.Stat(ImageChops.difference(left, right)).mean) / 3

"""Reading image-caption pairs, one at a time, from the forms in which such data is kept.

- images with captions: `x.jpg` beside `x.txt` (also img2dataset's folders), or `captions.jsonl` files whose
  lines have the fields `image` (a path from the file's own folder) and `caption`;
- tar shards with members `x.jpg` and `x.txt`, as img2dataset writes them, or in any order;
- parquet files with a caption column and a column of pictures: bytes, paths from the file's own folder, or the hub's
  struct of both.

Folders inside folders are read too. A source is a list of parts (a folder, a shard, a file), so that a long
reading can go on where it stopped.
"""

import errno
import hashlib
import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from tqdm import tqdm

from data.files import iter_json_lines
from data.inside import OutsideError, inside
from data.picture_cells import holds_pictures, parts
from models.errors import InputError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
IMAGE_COLUMNS = ("image", "jpg", "jpeg", "png", "webp")
CAPTION_COLUMNS = ("caption", "text", "TEXT")
PARQUET_ROWS = 64  # rows held in memory at a time

FORMS = (
    "a folder of images with x.txt beside x.jpg or with a captions.jsonl (fields image, caption), "
    "img2dataset folders or tar shards, parquet files with pictures (column image or jpg: bytes or paths) and "
    "captions (column caption, text or TEXT)"
)


class Item(NamedTuple):
    """One image-caption pair, not read yet. `key` is unique in its source and the same in every reading.

    `load()` returns (content of the image file, caption), each None if it is missing. It must be called
    before the next item is taken: the shard may be closed after that.
    """

    key: str
    load: Callable[[], tuple[bytes | None, str | None]]


class Source(NamedTuple):
    """A recognised source: its form, a hash of its files' names and sizes, and a lazy reader for each part.

    The hash counts in the pictures that a captions.jsonl names. It does not see a change of content that leaves all
    names and sizes as they were.
    """

    form: str
    fingerprint: str
    parts: list[Callable[[], Iterator[Item]]]


def find_source(path: str | os.PathLike, follow_paths: bool = False) -> Source:
    """Recognise what `path` holds by its content. Nothing of the items is read yet but the lines of captions.jsonl.

    The topmost folder that holds something known decides the form; in one folder the order is captions.jsonl,
    tar shards, parquet with image bytes, images with text files (img2dataset's parquet files of metadata are
    no images). Raises InputError if `path` is missing, nothing is recognised or a line of captions.jsonl is bad: also
    if it names a picture out of its folder, unless `follow_paths` (data/inside.py).
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"--source {path}: no such file or folder")
    root = path if path.is_dir() else path.parent
    form = next((form for folder, names in _folders(path) if (form := _form_of(folder, names))), None)
    if form is None:
        raise InputError(f"--source {path}: nothing recognised there; a source is one of: {FORMS}")
    wanted, read = READERS[form]
    if form in ("captions", "parquet"):
        read = partial(read, follow_paths)
    parts, listing = [], hashlib.sha256(form.encode())
    for folder, names in _folders(path):
        names = [name for name in names if wanted(name)]
        for name in names:
            listing.update(
                f"\n{(folder / name).relative_to(root)}\t{_size(folder / name)}".encode(errors="surrogateescape")
            )
            if form == "captions":
                listed = _listed(folder / name, follow_paths)
                for _, row, place in tqdm(listed, desc="listing", unit=" pictures", delay=2):
                    size = _listed_size(place)
                    listing.update(f"\n{row['image']}\t{size}".encode(errors="backslashreplace"))
        if form == "images" and names:
            parts.append(partial(read, root, folder))
        elif form != "images":
            parts.extend(partial(read, root, folder / name) for name in names)
    return Source(form, listing.hexdigest(), parts)


def _folders(path: Path) -> Iterator[tuple[Path, list[str]]]:
    """(folder, its file names) for `path` and all below it, sorted and without hidden ones."""
    if path.is_file():
        yield path.parent, [path.name]
        return

    def refuse(error: OSError):
        raise InputError(f"--source {error.filename}: cannot be listed ({error.strerror})")

    for folder, subfolders, names in os.walk(path, onerror=refuse):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        yield Path(folder), sorted(name for name in names if not name.startswith("."))


def _form_of(folder: Path, names: list[str]) -> str | None:
    if any(_is_captions(name) for name in names):
        return "captions"
    if any(_is_tar(name) for name in names):
        return "tar"
    parquet = next((name for name in names if _is_parquet(name)), None)
    if parquet is not None and _image_column(folder / parquet):
        return "parquet"
    stems = {name[: -len(".txt")] for name in names if name.endswith(".txt")}
    return "images" if any(_is_image(name) and os.path.splitext(name)[0] in stems for name in names) else None


def _is_captions(name: str) -> bool:
    return name == "captions.jsonl"


def _is_tar(name: str) -> bool:
    return name.endswith(".tar")


def _is_parquet(name: str) -> bool:
    return name.endswith(".parquet")


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise InputError(f"--source {path}: cannot be read ({error.strerror})") from None


@contextmanager
def _reading(path: Path, *errors: type[Exception]):
    """Turn a damaged or unreadable file into one line that names it."""
    try:
        yield
    except (OSError, *errors) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{path}: damaged, cut short or unreadable ({reason}); restore or remove it and run again, "
            "with --overwrite unless its size stays the same"
        ) from None


def _read_file(path: Path) -> bytes | None:
    with _reading(path):
        try:
            return path.read_bytes() if stat.S_ISREG(path.stat().st_mode) else None  # a pipe would wait for its writer
        except FileNotFoundError:
            return None


def _as_caption(content: object) -> str | None:
    """`content` as text; None if it is neither text nor UTF-8 bytes."""
    if isinstance(content, bytes):
        try:
            return content.decode("utf-8-sig")
        except UnicodeDecodeError:
            return None
    return content if isinstance(content, str) else None


def _read_images(root: Path, folder: Path) -> Iterator[Item]:
    for name in sorted(name for name in os.listdir(folder) if _is_image(name) and not name.startswith(".")):
        path = folder / name
        yield Item(path.relative_to(root).as_posix(), partial(_load_image_and_text, path))


def _load_image_and_text(path: Path) -> tuple[bytes | None, str | None]:
    return _read_file(path), _as_caption(_read_file(path.with_suffix(".txt")))


def _listed(path: Path, follow_paths: bool) -> Iterator[tuple[int, dict, Path]]:
    """(line number, object, place of its picture) of a captions.jsonl, its fields checked."""
    # Of a caption, half a character is left out (data/sampling.py); no file's name has one.
    for number, row in iter_json_lines(path, half_characters=True):
        for field in ("image", "caption"):
            if not isinstance(row.get(field), str):
                state = "is missing" if field not in row else "is not text"
                raise InputError(f'{path}, line {number}: field "{field}" {state}; give it as a string')
        yield number, row, _place(f'{path}, line {number}: field "image"', path.parent, row["image"], follow_paths)


def _place(where: str, folder: Path, name: str, follow_paths: bool) -> Path:
    try:
        return inside(folder, name, follow_paths)
    except OutsideError as error:
        raise InputError(f"{where}: {error}; mend it, or give --follow_paths to read it") from None


def _listed_size(path: Path) -> int | None:
    """Size of a picture that captions.jsonl names; None if there is no such file, or the name can be no file's."""
    with _reading(path):
        try:
            status = path.stat()
        except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a NUL, or half a surrogate pair
            return None
        except OSError as error:
            if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
                return None
            raise
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _read_captions(follow_paths: bool, root: Path, path: Path) -> Iterator[Item]:
    for number, row, place in _listed(path, follow_paths):
        key = f"{path.relative_to(root).as_posix()}:{number}"
        yield Item(key, partial(_load_listed, place, row["caption"]))


def _load_listed(path: Path, caption: str) -> tuple[bytes | None, str]:
    return None if _listed_size(path) is None else _read_file(path), caption


def _read_tar(root: Path, path: Path) -> Iterator[Item]:
    """The samples of one shard: members with one name but for the ending.

    Neighbours first, as img2dataset orders them; a picture whose caption stands elsewhere in the shard comes at its
    end. So memory grows only with what has no caption beside it.
    """
    shard = path.relative_to(root).as_posix()
    with _reading(path, tarfile.TarError), tarfile.open(path, "r:") as tar:
        pictures, texts = [], {}
        for number, (stem, members) in enumerate(_tar_neighbours(tar), start=1):
            image = next((info for suffix, info in members.items() if _is_image(suffix)), None)
            text = members.get(".txt")
            if image is not None and text is not None:
                yield Item(f"{shard}:{number}", partial(_load_members, tar, path, image, text))
            elif image is not None:
                pictures.append((stem, number, image))
            elif text is not None:
                texts.setdefault(stem, []).append(text)
        for stem, number, image in pictures:
            text = texts[stem].pop(0) if texts.get(stem) else None
            yield Item(f"{shard}:{number}", partial(_load_members, tar, path, image, text))


def _tar_neighbours(tar: tarfile.TarFile) -> Iterator[tuple[PurePosixPath, dict[str, tarfile.TarInfo]]]:
    """(name without its ending, ending -> member) of each run of members that share the name."""
    stem, members = None, {}
    for info in _tar_members(tar):
        name = PurePosixPath(info.name)
        if members and (name.with_suffix("") != stem or name.suffix in members):
            yield stem, members
            members = {}
        stem = name.with_suffix("")
        members[name.suffix] = info
    if members:
        yield stem, members


def _tar_members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    while (info := tar.next()) is not None:
        # TarFile keeps every member that it has seen; a shard's memory must not grow with it.
        tar.members.clear()
        if info.isfile() and not PurePosixPath(info.name).name.startswith("."):
            yield info
    # tarfile takes a damaged header for the end of the archive. The real end is a block of zeros.
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("no end of archive")


def _load_members(tar, path, image: tarfile.TarInfo, text: tarfile.TarInfo | None) -> tuple[bytes, str | None]:
    with _reading(path, tarfile.TarError):
        content, caption = (tar.extractfile(info).read() if info else None for info in (image, text))
    return content, _as_caption(caption)


def _image_column(path: Path) -> str | None:
    """The column of pictures of a parquet file (data/picture_cells.py), or None."""
    import pyarrow
    import pyarrow.parquet

    with _reading(path, pyarrow.ArrowException):
        schema = pyarrow.parquet.read_schema(path)
    there = (name for name in IMAGE_COLUMNS if name in schema.names)
    return next((name for name in there if holds_pictures(schema.field(name).type)), None)


def _read_parquet(follow_paths: bool, root: Path, path: Path) -> Iterator[Item]:
    # Imported here and above: it is slow to load, and only this form needs it.
    import pyarrow
    import pyarrow.parquet

    with _reading(path, pyarrow.ArrowException), pyarrow.parquet.ParquetFile(path) as file:
        names = file.schema_arrow.names
        image, caption = _image_column(path), next((name for name in CAPTION_COLUMNS if name in names), None)
        if image is None or caption is None:
            lacking = f"of pictures ({' or '.join(IMAGE_COLUMNS)})" if image is None else " or ".join(CAPTION_COLUMNS)
            raise InputError(f"{path}: no column {lacking}; it has {', '.join(names)}")
        number = 0
        for batch in file.iter_batches(PARQUET_ROWS, columns=[image, caption]):
            for picture, text in zip(batch[image], batch[caption], strict=True):
                load = partial(_load_row, path, number, picture, text, follow_paths)
                yield Item(f"{path.relative_to(root).as_posix()}:{number}", load)
                number += 1


def _load_row(path: Path, number: int, picture, text, follow_paths: bool) -> tuple[bytes | None, str | None]:
    content, name = parts(picture.as_py())
    if content is None and name is not None:
        place = _place(f"{path}, row {number}: its picture", path.parent, name, follow_paths)
        content = None if _listed_size(place) is None else _read_file(place)
    return content, _as_caption(text.as_py())


READERS = {
    "captions": (_is_captions, _read_captions),
    "tar": (_is_tar, _read_tar),
    "parquet": (_is_parquet, _read_parquet),
    "images": (lambda name: _is_image(name) or name.endswith(".txt"), _read_images),
}

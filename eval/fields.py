"""The fields of a row: its key, and whether it has what it needs."""

import json
from collections.abc import Iterator


def item_key(item: dict, key: tuple[str, ...]) -> tuple:
    """The values that tell this item from every other."""
    return tuple(item[field] for field in key)


def describe_key(item: dict, key: tuple[str, ...]) -> str:
    """The item's key as people read it: `id=7, position=center`."""
    return ", ".join(f"{field}={item[field]}" for field in key)


def wrong_field(item: dict, fields: dict[str, type | tuple[type, ...]]) -> str | None:
    """What is wrong with the first of `fields` (name -> type or types) that is missing or of another type; or None.

    True and false are no numbers.
    """
    for field, types in fields.items():
        types = types if isinstance(types, tuple) else (types,)
        if field not in item:
            return f"field `{field}` is missing"
        if not isinstance(item[field], types) or (isinstance(item[field], bool) and bool not in types):
            names = " or ".join(kind.__name__ for kind in types)
            return f"field `{field}` is {json.dumps(item[field], default=repr)[:60]}; {names} is expected"
    return None


def strings(value: object) -> Iterator[str]:
    """All strings in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for inner in value if isinstance(value, list) else (*value.keys(), *value.values()):
            yield from strings(inner)

"""What may be wrong with a checkpoint file, in one line."""

CURE = "re-save it with torch.save(model.state_dict(), FILE) or as safetensors"


class TorchFileError(ValueError):
    """A file that is not read; the line says which, why, and what to do."""


class Damage(Exception):
    """The file contradicts itself or its format; the text says in what."""


class Refusal(Exception):
    """The file is whole and holds what is not read; the text says what, and a cure."""


def quoted(value: object, *, limit: int = 80) -> str:
    """`value`, out of a file, as it may stand in a message: one line, not too long.

    Containers become the name of their type, for one that holds itself many times over
    would be written out as often.
    """
    if isinstance(value, str | bytes):
        return repr(value[:limit]) + ("..." if len(value) > limit else "")
    plain = value is None or isinstance(value, int | float)
    return repr(value)[:limit] if plain else f"a {type(value).__name__}"

"""Files that are whole or absent, also after a kill."""

from collections.abc import Iterable

from etils import epath

from hypert5_jax.core.errors import UserError


def write_whole(file: epath.Path, content: str | bytes | Iterable[bytes]) -> None:
    """Writes a file under another name, and gives it its own when it is whole.

    Args:
      file: local or gs://; its folder is made.
      content: text, bytes, or pieces of bytes, written one after another.

    Raises:
      UserError: it cannot be written.
    """
    if isinstance(content, str):
        content = content.encode()
    pieces = [content] if isinstance(content, bytes) else content
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_name(file.name + ".unfinished")
        with unfinished.open("wb") as stream:
            for piece in pieces:
                stream.write(piece)
        unfinished.replace(file)
    except OSError as error:
        raise UserError(f"cannot write {file}: {error.strerror or error}") from error

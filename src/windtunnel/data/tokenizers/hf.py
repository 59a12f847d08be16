"""A tokenizer of Hugging Face, read from its ``tokenizer.json`` by the tokenizers library."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import tokenizers

from windtunnel.data.tokenizers.base import FILE, Ids, Tokenizer
from windtunnel.data.tokenizers.bpe import byte_signs
from windtunnel.errors import DataError

_NAMES = ("bos", "eos", "pad")


class HfTokenizer(Tokenizer):
    """Whatever ``tokenizer.json`` says, with two differences to transformers.

    Text never becomes a special token, whatever it spells; and what such a file puts around a text
    (bos, say) is put only before a prompt, by :meth:`encode_prompt`. A file whose normaliser drops
    something (case, accents) loses it here too.

    ``pieces`` are the bytes of each id where the decoder works on bytes. Others join what they
    decode, so :meth:`decode` asks the library and a lone piece is what its text says.
    """

    kind: ClassVar[str] = "hf"

    def __init__(self, content: Mapping[str, Any], specials: Mapping[str, int]) -> None:
        """``content``: the parsed file; ``specials``: the ids of bos, eos and pad, as known."""
        self.content = dict(content)
        self._engine: Any = tokenizers.Tokenizer.from_str(json.dumps(self.content))
        self._engine.no_truncation()
        self._engine.no_padding()
        self._engine.encode_special_tokens = True
        named: dict[str, int] = {name: specials[name] for name in _NAMES if name in specials}
        token = self.content["model"].get("unk_token")
        unknown = None if token is None else self._engine.token_to_id(token)
        if unknown is not None:
            named["unk"] = int(unknown)
        self._of_bytes = "ByteLevel" in set(_types(self.content.get("decoder")))
        super().__init__(self._pieces(), named)

    @classmethod
    def read(cls, path: Path) -> HfTokenizer:
        """From a ``tokenizer.json``, or the folder that holds it; special tokens from the files
        beside it (``tokenizer_config.json``, else ``config.json``).

        Raises:
            DataError: the file is missing or is no tokenizer.
        """
        file = path / FILE if path.is_dir() else path
        content = _json(file)
        try:
            engine = tokenizers.Tokenizer.from_str(json.dumps(content))
        except Exception as error:  # the library raises nothing more specific
            raise DataError(
                f"{file}: is no tokenizer of the tokenizers library ({error})"
            ) from error
        return cls(content, _specials(file.parent, engine))

    def _pieces(self) -> list[bytes]:
        added = {item["id"]: item for item in self.content.get("added_tokens", [])}
        vocabulary = self._engine.get_vocab(with_added_tokens=True)
        by_sign = {sign: byte for byte, sign in enumerate(byte_signs())}
        pieces = [b""] * (max(vocabulary.values(), default=-1) + 1)
        for token, i in vocabulary.items():
            if i in added:
                pieces[i] = b"" if added[i]["special"] else token.encode()
            elif self._of_bytes and all(sign in by_sign for sign in token):
                pieces[i] = bytes(by_sign[sign] for sign in token)
            elif len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
                pieces[i] = bytes([int(token[3:5], 16)])
            else:
                pieces[i] = token.replace("▁", " ").removeprefix("##").encode()
        return pieces

    def state(self) -> dict[str, Any]:
        specials = {name: i for name, i in self.specials.items() if name in _NAMES}
        return {"type": self.kind, "json": self.content, "specials": specials}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        return cls(state["json"], state["specials"])

    def _ids(self, text: str) -> Ids:
        return np.array(self._engine.encode(text, add_special_tokens=False).ids, dtype=np.int64)

    @cached_property
    def _before(self) -> list[int]:
        """What the file puts before a text."""
        ids: list[int] = self._engine.encode("a", add_special_tokens=True).ids
        bare = self._engine.encode("a", add_special_tokens=False).ids
        for start in range(len(ids) - len(bare) + 1):
            if ids[start : start + len(bare)] == bare:
                return ids[:start]
        return []

    def text_of(self, i: int) -> str:
        """How an id is written in the file, a special token too."""
        return str(self._engine.id_to_token(i))

    def encode_prompt(self, text: str) -> list[int]:
        return self._before + self.encode(text)

    def decode(self, ids: Iterable[int]) -> str:
        numbers = [int(i) for i in ids]
        if self._of_bytes:
            return super().decode(numbers)
        self.decode_bytes(numbers)  # refuses ids outside of the vocabulary
        text: str = self._engine.decode(numbers, skip_special_tokens=True)
        return text


def _types(part: Any) -> Iterator[str]:
    """The types of a decoder and of all within it."""
    if isinstance(part, dict):
        yield str(part.get("type"))
        for inner in part.get("decoders", []):
            yield from _types(inner)


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise DataError(f"{file}: is no JSON ({error})") from error
    if not isinstance(content, dict):
        raise DataError(f"{file}: holds no mapping")
    return content


def _specials(folder: Path, engine: Any) -> dict[str, int]:
    """The ids of the special tokens, as the files in a folder name them."""
    found: dict[str, int] = {}
    for file, suffix in (("tokenizer_config.json", "_token"), ("config.json", "_token_id")):
        values = _json(folder / file) if (folder / file).is_file() else {}
        for name in _NAMES:
            value = values.get(name + suffix)
            if isinstance(value, list) and value:
                value = value[0]
            if isinstance(value, dict):
                value = value.get("content")
            i = engine.token_to_id(value) if isinstance(value, str) else value
            if isinstance(i, int) and 0 <= i < engine.get_vocab_size(with_added_tokens=True):
                found.setdefault(name, i)
    return found

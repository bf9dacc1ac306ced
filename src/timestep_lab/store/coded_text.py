"""A column of text that says the same few things in row after row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, overload

if TYPE_CHECKING:
    import numpy


class CodedText(Sequence[Any]):
    """Reads like a list of `str | None`. `codes[row]` is the place of the row's text in `words`, -1 for None.

    Of a hundred thousand rows a list of texts takes tens of milliseconds to make and to walk, codes take one.
    """

    __slots__ = ("codes", "words")

    def __init__(self, codes: numpy.ndarray[Any, Any], words: Sequence[str]) -> None:
        self.codes, self.words = codes, list(words)

    @classmethod
    def of(cls, values: Sequence[Any]) -> CodedText:
        """The same column, coded; values other than None become text."""
        import numpy as np

        if isinstance(values, CodedText):
            return values
        met = [value for value in dict.fromkeys(values) if value is not None]
        place: dict[Any, int] = {value: code for code, value in enumerate(met)}
        place[None] = -1
        codes = np.fromiter(map(place.__getitem__, values), dtype="<i4", count=len(values))
        return cls(codes, [str(value) for value in met])

    def where(self, *texts: str) -> numpy.ndarray[Any, Any]:
        """Of each row, whether it says one of `texts`."""
        import numpy as np

        return np.isin(self.codes, [code for code, word in enumerate(self.words) if word in texts])

    def tolist(self) -> list[str | None]:
        by_code: list[str | None] = [*self.words, None]
        return [by_code[code] for code in self.codes.tolist()]

    def __len__(self) -> int:
        return len(self.codes)

    @overload
    def __getitem__(self, row: int) -> str | None: ...

    @overload
    def __getitem__(self, row: slice) -> CodedText: ...

    def __getitem__(self, row: int | slice) -> str | CodedText | None:
        if isinstance(row, slice):
            return CodedText(self.codes[row], self.words)
        code = int(self.codes[row])
        return self.words[code] if code >= 0 else None

    def __iter__(self) -> Iterator[str | None]:
        return iter(self.tolist())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and self.tolist() == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(self.tolist())

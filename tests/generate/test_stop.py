"""Stop strings, wherever tokens cut them."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.errors import UsageError
from windtunnel.generate import StopStrings, TextStream


class Pieces:
    """Token i stands for piece i."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = pieces

    def decode_bytes(self, ids) -> bytes:
        return b"".join(self.pieces[i] for i in ids)


def cut_up(text: str, cuts: list[int]) -> list[bytes]:
    data, places = text.encode(), sorted({c % (len(text.encode()) + 1) for c in cuts})
    edges = [0, *places, len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


TEXT = st.text(alphabet="ab€\n", max_size=14)


@given(TEXT, st.lists(st.integers(0, 60), max_size=8), st.lists(TEXT.filter(bool), max_size=3))
def test_a_stream_is_the_text_before_the_first_stop_string(
    text: str, cuts: list[int], stops: list[str]
) -> None:
    pieces = Pieces(cut_up(text, cuts))
    stop, written, so_far = StopStrings(pieces, stops), list[str](), b""
    shown = TextStream(pieces, StopStrings(pieces, stops))
    for token in range(len(pieces.pieces)):
        written.append(shown.add(token))
        so_far = pieces.decode_bytes(range(token + 1))
        ended = stop(0, token)
        assert ended == any(s.encode() in so_far for s in stops)
        if ended:
            break
    written.append(shown.close())
    # What a later token could have made of it does not matter: the row has ended.
    places = [so_far.find(s.encode()) for s in stops if s.encode() in so_far]
    expected = so_far[: min(places)] if places else so_far
    assert "".join(written) == expected.decode()
    assert stop.cut(so_far) == expected


def test_rows_are_apart() -> None:
    stop = StopStrings(Pieces([b"a", b"b"]), ["ab"])
    assert [stop(0, 0), stop(1, 1), stop(0, 1)] == [False, False, True]


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(UsageError, match="empty"):
        StopStrings(Pieces([]), [""])

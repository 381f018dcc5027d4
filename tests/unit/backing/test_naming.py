"""Names: those that people expect, safe, and never two keys with the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infiniray.backing.naming import TEMPORARY, key_of, name_of

keys = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=300) | st.text("./%\\_+ 2E", min_size=1)


@given(keys)
def test_a_key_comes_back_from_its_name(key: str) -> None:
    assert key_of(name_of(key)) == key


@given(keys)
def test_names_stay_in_their_folder(key: str) -> None:
    for part in name_of(key).split("/"):
        assert part not in ("", ".", "..", TEMPORARY)
        assert len(part.encode()) <= 255
        assert part.isprintable() or not part.isascii()


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("layers/sha256:ab12", "layers/sha256:ab12"),
        ("a b.txt", "a b.txt"),
        ("../x", "%2E%2E/x"),
        ("/a//b/", "%_/a/%_/b/%_"),
        ("100%", "100%25"),
        ("x" * 201, "x" * 200 + "%+/x"),
        ("ü", "ü"),
    ],
)
def test_what_names_look_like(key: str, name: str) -> None:
    assert name_of(key) == name


@pytest.mark.parametrize("name", ["", "a//b", "%2e", "%FF", "50%", "a/../b", f"{TEMPORARY}/ab12", "%41", "a%+/b"])
def test_what_others_put_there_may_have_no_key(name: str) -> None:
    assert key_of(name) is None

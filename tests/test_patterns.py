# SPDX-License-Identifier: GPL-2.0
"""What pages under test are filled with (mm/region.py)."""

import os

import pytest

from mm.region import unique_tokens

MANY = 1000  # more than a byte counts


def test_patterns_differ_from_their_first_word_on() -> None:
    """So that what is written over the first word of a page makes it no other page's like."""
    tokens = unique_tokens(MANY)
    assert {len(token) for token in tokens} == {16}
    assert len({token[:4] for token in tokens}) == MANY
    assert {token[4:8] for token in tokens} == {os.getpid().to_bytes(4, "little")}


@pytest.mark.parametrize("text", [b"x", b"child", "…".encode()])
def test_a_text_changes_every_pattern(text: bytes) -> None:
    """A test that writes one cannot meet a page that begins with it already."""
    assert not [token for token in unique_tokens(MANY) if token[:1] == text[:1]]

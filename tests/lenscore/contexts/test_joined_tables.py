"""Row tables of several corpora, joined, are the row table of all corpora read one after the other."""

from __future__ import annotations

import dataclasses

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lenscore.contexts.context_table import RowTable, choose_rows
from lenscore.contexts.joined_tables import join_tables
from lenscore.contexts.row_choice import RowChoice
from storage_layouts.errors import CorruptError, InputError
from tests.conftest import WORDS, make_tokenizer

TOKENIZER = make_tokenizer()
FEW = WORDS[:4]  # so that prefixes, and whole sentences, occur in several corpora

sentences = st.lists(st.sampled_from(FEW), min_size=1, max_size=5).map(" ".join)
corpora = st.lists(st.lists(sentences, min_size=1, max_size=12), min_size=2, max_size=4)
choices = st.builds(
    RowChoice,
    per_token=st.integers(1, 4),
    sampling=st.sampled_from(["uniform", "first"]),
    seed=st.integers(0, 5),
    causal=st.booleans(),
    first_position=st.sampled_from([0, 1]),
    max_tokens=st.sampled_from([3, 512]),
)


def chosen(corpus: list[str], choice: RowChoice) -> RowTable:
    return choose_rows(lambda: iter(corpus), TOKENIZER, choice)


def flat(corpora: list[list[str]]) -> list[str]:
    return [text for corpus in corpora for text in corpus]


@settings(max_examples=300, deadline=None)
@given(corpora, choices)
def test_joined_tables_are_the_table_of_all_corpora(corpora: list[list[str]], choice: RowChoice) -> None:
    parts = [chosen(corpus, choice) for corpus in corpora]
    joined, starts = join_tables(parts, TOKENIZER, choice)
    assert_equal(joined, chosen(flat(corpora), choice))
    assert starts == [len(flat(corpora[:index])) for index in range(len(corpora))]
    # In steps, as a store that grows several times.
    grown = parts[0]
    for part in parts[1:]:
        grown, _ = join_tables([grown, part], TOKENIZER, choice)
    assert_equal(grown, joined)


def assert_equal(found: RowTable, expected: RowTable) -> None:
    assert found.rows.equals(expected.rows)
    assert found.sentences.to_pylist() == expected.sentences.to_pylist()
    counts = ("sentences_read", "contexts_seen", "sentences_cut")
    assert [getattr(found, name) for name in counts] == [getattr(expected, name) for name in counts]


@settings(max_examples=100, deadline=None)
@given(corpora, choices, st.sampled_from([0.3, 0.7]))
def test_shares_of_corpora_join_to_the_share_of_all(corpora: list[list[str]], choice: RowChoice, share: float) -> None:
    """Sentences that were left out have numbers too; those of the later corpora may then be others."""
    choice = dataclasses.replace(choice, fraction=share)
    try:
        parts = [chosen(corpus, choice) for corpus in corpora]
    except InputError:
        return  # a corpus of which nothing was used
    joined, _ = join_tables(parts, TOKENIZER, choice)
    assert contexts_of(joined) == contexts_of(chosen(flat(corpora), choice))


def contexts_of(table: RowTable) -> list[tuple[int, int, str]]:
    """Token, position and text of each row, in order."""
    texts = dict(zip(*(table.sentences[name].to_pylist() for name in ("sentence_id", "text")), strict=True))
    columns = (table.rows[name].to_pylist() for name in ("token_id", "position", "sentence_id"))
    return [(token, position, texts[number]) for token, position, number in zip(*columns, strict=True)]


def test_another_tokenizer_is_refused() -> None:
    choice = RowChoice()
    parts = [chosen([" ".join(FEW)], choice), chosen([" ".join(WORDS[5:])], choice)]
    with pytest.raises(InputError, match="its tokenizer gives other tokens than when the stores were made"):
        join_tables(parts, make_tokenizer(WORDS[::-1]), choice)


def test_a_table_in_another_order_is_damaged() -> None:
    choice = RowChoice()
    part = chosen([" ".join(FEW), " ".join(FEW[::-1])], choice)
    turned = dataclasses.replace(part, rows=part.rows.take(pa.array(range(len(part.rows)))[::-1]))
    with pytest.raises(CorruptError, match="the order of the corpus"):
        join_tables([turned, part], TOKENIZER, choice)

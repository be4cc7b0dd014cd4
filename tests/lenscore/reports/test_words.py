"""Words over layers: every number is what pandas makes of the Parquet files, whatever the lists and the words are."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
import pytest

from lenscore.readings.words import whole_word
from lenscore.reports.parts.drawing import save_plot
from lenscore.reports.word_properties import words_section
from lenscore.statistics.sources import Sources, read_sources
from lenscore.statistics.word_lists import ATTRIBUTES, OWN, PARTS_OF_SPEECH, WordLists
from storage_layouts.errors import InputError
from storage_layouts.results import LensResults
from tests.lenscore.reports.recomputed import wilson_over_images

RATINGS = "Word\tBigram\tConc.M\nshiny\t0\t2.5\nSTAR\t0\t4.75\nstar\t0\t1.0\n</script><script>alert(2)</script>\t0\t3\n"
PARTS = "word,Dom_PoS_SUBTLEX\nstar,Noun\nheart,Noun\nShiny,Adjective\nthere,Adverb\nsee,Verb\nmoon,Name\ncup,#N/A\n"
NAMED = "word,attribute\nstar,shape\nring,shape\nring,color\nshiny,texture\n😀&amp;,colour\n"


@pytest.fixture(scope="module")
def lists(tmp_path_factory: pytest.TempPathFactory) -> WordLists:
    folder = tmp_path_factory.mktemp("lists")
    (folder / "norms.tsv").write_text(RATINGS)
    (folder / "parts.csv").write_text(PARTS)
    (folder / "named.csv").write_text(NAMED)
    return WordLists.read(folder / "norms.tsv", folder / "parts.csv", folder / "named.csv")


def every_word(results: LensResults) -> pd.DataFrame:
    """One line a candidate, with its word in lower case; blank ones are left out."""
    tokens = [token.strip() for token in results.token_words()]
    store = results.store()
    rows = store.row_table(["sentence_id", "char_start", "char_end"]).to_pandas()
    texts = store.sentences().to_pandas().set_index("sentence_id")["text"]
    row_words = [whole_word(texts[row.sentence_id], row.char_start, row.char_end) for row in rows.itertuples()]
    table = results.results().to_pandas().explode("ids")
    latent = table["lens"] == "latent"
    table["word"] = [(row_words if of_rows else tokens)[i] for of_rows, i in zip(latent, table["ids"], strict=True)]
    table["word"] = table["word"].str.casefold()
    return table[table["word"] != ""]


def test_every_number_equals_a_recomputation(judged, lists: WordLists) -> None:
    section = words_section(Sources(read_sources([judged[0].path]).analyses, word_lists=lists))
    tables = {table.name: table.frame for table in section.tables}
    words = every_word(judged[0])
    groups = words.groupby(["lens", "layer"])
    ratings = pd.read_csv(io.StringIO(RATINGS), sep="\t").assign(Word=lambda frame: frame["Word"].str.lower())
    ratings = ratings.drop_duplicates("Word").set_index("Word")["Conc.M"]
    rated = words.assign(rating=words["word"].map(ratings)).groupby(["lens", "layer"])["rating"]
    found = tables["concreteness"].set_index(["lens", "layer"])
    assert found["words"].to_dict() == groups.size().to_dict()
    assert found["found"].to_dict() == rated.count().to_dict()
    pd.testing.assert_series_equal(found["mean"].sort_index(), rated.mean(), check_names=False, check_index_type=False)
    named = pd.read_csv(io.StringIO(NAMED.replace("color\n", "colour\n")))
    for line in tables["attributes"].itertuples():
        listed = {word.lower() for word in named.loc[named["attribute"] == line.attribute, "word"]}
        has = groups.get_group((line.lens, line.layer))["word"].isin(listed)
        assert (line.words, line.count, line.share) == (len(has), has.sum(), pytest.approx(has.mean()))
    known = {"Noun": "noun", "Adjective": "adjective", "Adverb": "adverb", "Verb": "verb", "Name": "proper noun"}
    parts = pd.read_csv(io.StringIO(PARTS), keep_default_na=False)
    part_of = dict(zip(parts["word"].str.lower(), parts["Dom_PoS_SUBTLEX"].map(known).fillna("other"), strict=True))
    for line in tables["parts-of-speech"].itertuples():
        has = groups.get_group((line.lens, line.layer))["word"].map(part_of) == line.part_of_speech
        assert (line.count, line.share) == (has.sum(), pytest.approx(has.mean()))
    assert tables["parts-of-speech"]["count"].sum() > 1000


def test_the_interval_is_one_over_images(judged, lists: WordLists) -> None:
    section = words_section(Sources(read_sources([judged[0].path]).analyses, word_lists=lists))
    line = (
        next(table.frame for table in section.tables if table.name == "attributes")
        .set_index(["lens", "layer", "attribute"])
        .loc[("latent", 2, "shape")]
    )
    words = every_word(judged[0])
    words = words[(words["lens"] == "latent") & (words["layer"] == 2)]
    shape = words["word"].isin(["star", "ring"])
    values = shape.astype(float).set_axis(pd.Index(words["image_id"], name="image_id"))
    assert (line["low"], line["high"]) == pytest.approx(wilson_over_images(values, len(words)), abs=1e-6)
    for table in section.tables:
        if "share" in table.frame:
            assert ((table.frame["low"] >= 0) & (table.frame["high"] <= 1)).all()


def test_our_own_lists_are_used_and_called_ours(judged, tmp_path: Path) -> None:
    section = words_section(read_sources([judged[0].path]))
    assert "our own small list" in section.text
    assert "coarse" in section.text
    shown = section.brief[0].shown
    assert shown["lens"].tolist() == ["LatentLens", "LogitLens", "EmbeddingLens"]
    found = section.brief[0].frame.set_index("lens")
    assert found.loc["logit", "noun"] == pytest.approx(
        every_word(judged[0])
        .query("lens == 'logit'")["word"]
        .isin(["circle", "square", "star", "heart", "ring", "moon", "fish", "key", "cup", "tree", "arrow", "flag"])
        .mean()
    )
    for plot in section.plots:
        assert {path.suffix for path in save_plot(plot, tmp_path) if path.stat().st_size > 500} >= {".png", ".pdf"}
        assert "found" in plot.caption or "list" in plot.caption


def test_our_own_lists_are_in_order() -> None:
    lists = WordLists.read()
    assert lists.concreteness.source == lists.parts_of_speech.source == lists.attributes.source == OWN
    assert set(lists.concreteness.values.values()) == {1, 2, 3, 4, 5}
    assert {label for labels in lists.attributes.values.values() for label in labels} == set(ATTRIBUTES)
    used = {label for labels in lists.parts_of_speech.values.values() for label in labels}
    assert used == set(PARTS_OF_SPEECH) - {"proper noun", "other"}
    for words in (lists.concreteness.values, lists.parts_of_speech.values, lists.attributes.values):
        assert all(word == word.strip().casefold() and word for word in words)
    assert lists.concreteness.values["dog"] > lists.concreteness.values["idea"]
    assert lists.parts_of_speech.values["running"] == ("verb",)


@pytest.mark.parametrize(
    ("flag", "name", "content", "message"),
    [
        (
            "concreteness",
            "n.csv",
            "Word,Bigram\ncat,0\n",
            r"n\.csv: found Word, Bigram; expected columns such as Word and",
        ),
        ("concreteness", "n.csv", "Word\tConc.M\ncat\t4\n", r"found Word\tConc\.M; expected .* Brysbaert.*csv or tsv"),
        ("concreteness", "n.csv", "Word,Conc.M\ncat,9\n", r"'cat' has '9'; expected a rating from 1 to 5"),
        ("concreteness", "n.csv", "Word,Conc.M\ncat,<b>\n", r"'cat' has '<b>'; expected a rating"),
        ("concreteness", "n.csv", "Word,Conc.M\n", r"found no lines; expected columns"),
        ("concreteness", "gone.csv", None, r"gone\.csv: no such file; the norms are the supplement of Brysbaert"),
        ("concreteness", "n.parquet", "x", r"not a readable table"),
        ("parts_of_speech", "p.csv", "word,pos\ncat,1\ndog,2\n", r"found '1'; expected parts of speech such as noun"),
        ("parts_of_speech", "gone.csv", None, r"--parts-of-speech .*gone\.csv: no such file; .*SUBTLEX-US"),
        ("attributes", "a.csv", "word,attribute\nred,hue\n", r"found 'hue'; expected colour, shape or texture"),
        ("attributes", "a.csv", "colour\nred\n", r"found colour; expected columns such as word and attribute"),
    ],
)
def test_a_wrong_list_is_one_clear_line(
    tmp_path: Path, flag: str, name: str, content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message) as refused:
        WordLists.read(**{flag: tmp_path / name})
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith(f"--{flag.replace('_', '-')} ")

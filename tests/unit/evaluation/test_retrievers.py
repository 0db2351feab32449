import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyrank.errors import EncoderError
from polyrank.evaluation import retrievers
from polyrank.evaluation.bm25 import Bm25Retriever
from polyrank.evaluation.lexical import tokenize
from polyrank.evaluation.retrievers import EmbeddingRetriever, select_top_k


def search(stage, queries, documents, top_k):
    def ignore(count):
        assert count > 0

    index = stage.index_documents(documents, ignore)
    read = stage.read_queries(queries, ignore)
    return stage.search(read, np.arange(len(queries)), index, top_k)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("The cat's 2 paws", ["the", "cat", "s", "2", "paws"]),
        ("STRASSE, straße", ["strasse", "strasse"]),
        ("ﬁne ＦＵＬＬ ①", ["fine", "full", "1"]),
        ("२०२६ ۱۲ ๓", ["2026", "12", "3"]),
        ("snake_case", ["snake", "case"]),
        ("हिन्दी में प्रश्न", ["हिन्दी", "में", "प्रश्न"]),
        ("مَرْحَبًا بِالْعَالَم", ["مَرْحَبًا", "بِالْعَالَم"]),
        ("家猫可以", ["家猫", "猫可", "可以"]),
        ("猫", ["猫"]),
        ("iPhone手机15号", ["iphone", "手机", "15", "号"]),
        ("カタカナ", ["カタ", "タカ", "カナ"]),
        ("ｶﾀ", ["カタ"]),
        ("แมวบ้าน", ["แม", "มว", "วบ้", "บ้า", "าน"]),
        ("고양이는 잔다", ["고양", "양이", "이는", "잔다"]),
        ("ទន្លេ", ["ទន្", "ន្លេ"]),
        ("…!? — 👍", []),
        ("", []),
    ],
)
def test_words_of_many_scripts(text, tokens):
    assert tokenize(text) == tokens


def test_words_ignore_unicode_form():
    assert tokenize("re\u0301sume\u0301 Ｃａｆé") == tokenize("résumé CAFÉ")


PASSAGES = {
    "en": ["Rye bread needs sourdough.", "The Moon causes the tides.", "Cats sleep all day."],
    "ru": ["Ржаной хлеб пекут на закваске.", "Луна вызывает приливы.", "Кошки спят весь день."],
    "hi": ["राई की रोटी खट्टी होती है।", "चाँद ज्वार लाता है।", "बिल्लियाँ दिन भर सोती हैं।"],
    "ar": ["خبز الجاودار يحتاج خميرة.", "القمر يسبب المد والجزر.", "القطط تنام طوال اليوم."],
    "th": ["ขนมปังข้าวไรย์ต้องใช้แป้งหมัก", "ดวงจันทร์ทำให้เกิดน้ำขึ้นน้ำลง", "แมวนอนหลับทั้งวัน"],
    "zh": ["黑麦面包需要酸面团。", "月球引起潮汐。", "猫整天睡觉。"],
    "ja": ["ライ麦パンにはサワー種が必要です。", "月が潮の満ち引きを起こす。", "猫は一日中眠る。"],
    "ko": ["호밀빵에는 사워도우가 필요하다.", "달은 조수를 일으킨다.", "고양이는 하루 종일 잔다."],
    "km": ["នំបុ័ងត្រូវការមេដំបែ", "ព្រះចន្ទបង្កើតជំនោរ", "ឆ្មាគេងពេញមួយថ្ងៃ"],
}
QUESTIONS = {
    "en": "what causes the TIDES?",
    "ru": "что вызывает приливы?",
    "hi": "ज्वार कौन लाता है?",
    "ar": "ما الذي يسبب المد والجزر؟",
    "th": "อะไรทำให้เกิดน้ำขึ้นน้ำลง",
    "zh": "什么引起潮汐？",
    "ja": "潮の満ち引きは何が起こす？",
    "ko": "조수는 왜 일어나는가?",
    "km": "អ្វីបង្កើតជំនោរ",
}


@pytest.mark.parametrize("language", PASSAGES)
def test_bm25_finds_the_passage_in_many_languages(language):
    (found,) = search(Bm25Retriever(), [QUESTIONS[language]], PASSAGES[language], 3)
    assert found.doc_indices[0] == 1


def test_bm25_leaves_out_documents_without_a_common_word():
    cat, nothing, empty = search(Bm25Retriever(), ["cat", "moon", "?!"], ["a cat", "a dog"], 5)
    assert cat.doc_indices.tolist() == [0]
    assert nothing.doc_indices.tolist() == empty.doc_indices.tolist() == []


def test_bm25_breaks_ties_by_position_and_takes_wordless_corpora():
    (found,) = search(Bm25Retriever(), ["cat"], ["dog", "cat", "cat", "cat"], 2)
    assert found.doc_indices.tolist() == [1, 2]
    (found,) = search(Bm25Retriever(), ["cat"], ["", "…"], 2)
    assert found.doc_indices.tolist() == []


def test_bm25_scores_are_lucenes():
    documents = ["cat cat dog", "cat bird", "bird fish"]
    (found,) = search(Bm25Retriever(), ["cat"], documents, 3)
    idf = np.log(1 + (3 - 2 + 0.5) / (2 + 0.5))
    mean_length = 7 / 3
    expected = [
        idf * count / (count + 1.5 * (1 - 0.75 + 0.75 * length / mean_length))
        for count, length in ((2, 3), (1, 2))
    ]
    assert found.doc_indices.tolist() == [0, 1]
    assert found.scores == pytest.approx(expected, rel=1e-5)


@settings(deadline=None)
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=40), st.integers(1, 50))
def test_top_k_agrees_with_sorting_everything(values, top_k):
    scores = np.array(values, np.float32)
    expected = sorted(range(len(values)), key=lambda i: (-values[i], i))[:top_k]
    assert select_top_k(scores, top_k).tolist() == expected


class Vectors:
    """Gives rows prepared for each text."""

    def __init__(self, rows):
        self.rows = rows

    def encode(self, texts, *, input_type):
        return np.stack([self.rows[text] for text in texts])


@pytest.mark.parametrize("scores_per_block", [1, 300, 1 << 24])
def test_vectors_agree_with_brute_force_in_blocks_of_any_size(monkeypatch, scores_per_block):
    monkeypatch.setattr(retrievers, "_SCORES_PER_BLOCK", scores_per_block)
    generator = np.random.default_rng(5)
    rows = generator.standard_normal((120, 24)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    rows[60:90] = rows[0:30]  # equal documents: ties that position must break
    prepared = {str(i): row for i, row in enumerate(rows)}
    queries = [str(i) for i in range(0, 120, 7)]
    found = search(EmbeddingRetriever(Vectors(prepared)), queries, list(prepared), 10)
    for query, candidates in zip(queries, found, strict=True):
        exact = (rows * rows[int(query)]).sum(axis=1, dtype=np.float64).astype(np.float32)
        expected = sorted(range(120), key=lambda i: (-exact[i], i))[:10]
        assert candidates.doc_indices.tolist() == expected
        assert (candidates.scores == exact[expected]).all()


def test_only_the_rows_asked_for_are_searched():
    prepared = {"a": np.array([1, 0], np.float32), "b": np.array([0, 1], np.float32)}
    stage = EmbeddingRetriever(Vectors(prepared))
    index = stage.index_documents(["a", "b"], lambda count: None)
    found = stage.search(index, np.array([1]), index, 5)
    assert [candidates.doc_indices.tolist() for candidates in found] == [[1, 0]]


@pytest.mark.parametrize("rows", [np.zeros((1, 3)), np.zeros(2), np.array([[np.nan, 1], [0, 1]])])
def test_bad_embeddings_are_refused(rows):
    class Broken:
        def encode(self, texts, *, input_type):
            return rows

    with pytest.raises(EncoderError, match="one finite row a text"):
        EmbeddingRetriever(Broken()).read_queries(["a", "b"], lambda count: None)

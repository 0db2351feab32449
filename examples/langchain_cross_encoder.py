"""LangChain: the same by its own `CrossEncoderReranker`, awaited."""

import asyncio
import json
from pathlib import Path

from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_classic.retrievers.document_compressors import CrossEncoderReranker
from langchain_core.vectorstores import InMemoryVectorStore

from polyrank.integrations.langchain import PolyrankCrossEncoder, PolyrankEmbeddings

lines = Path(__file__).with_name("cats.jsonl").read_text(encoding="utf8").splitlines()
texts = [json.loads(line)["text"] for line in lines]


async def main() -> None:
    """Ask once."""
    store = await InMemoryVectorStore.afrom_texts(texts, PolyrankEmbeddings())
    retriever = ContextualCompressionRetriever(
        base_compressor=CrossEncoderReranker(model=PolyrankCrossEncoder(), top_n=3),
        base_retriever=store.as_retriever(search_kwargs={"k": 10}),
    )
    for document in await retriever.ainvoke("How long do cats live?"):
        print(document.page_content)


asyncio.run(main())
